"""What every test needs: one thread, so that many tests may run beside other work."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
