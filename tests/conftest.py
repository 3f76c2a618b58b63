"""What every test needs: one thread, so that many tests may run beside other work."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C and pass that on; the programs that tests start must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
