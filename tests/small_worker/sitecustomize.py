"""On a worker's PYTHONPATH, this puts the small stages in the place of the real ones, in the processes of its runs."""

import os
import sys
from pathlib import Path

if "PREFECT__FLOW_RUN_ID" in os.environ:
    from flows import reconstruct

    sys.path.append(str(Path(__file__).parents[1]))
    from small_cli import steps

    reconstruct.stages_of = lambda preset, *, seed, formats: steps(seed=seed)
