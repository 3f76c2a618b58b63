"""Decoding in a process of its own, with limits on memory and time: decoders are C code, and pictures come from strangers."""

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

from PIL import Image

from img2mesh.data.config import PrepareConfig
from img2mesh.data.preprocess import decode
from img2mesh.errors import InputError, TransientError

# Pictures of 64 megapixels pass, whatever their mode; what passes does not depend on the limits, so they are no parameters.
MAX_SECONDS = 120.0
MAX_MEMORY_BYTES = 4 * 1024**3
_REFUSED = 2


def decode_apart(
    data: bytes, config: PrepareConfig, *, max_seconds: float = MAX_SECONDS, max_memory_bytes: int = MAX_MEMORY_BYTES
) -> Image.Image:
    """The picture as `preprocess.decode` gives it, decoded by a process that the limits end.

    Args:
        data: A picture file's bytes.
        config: Its limits hold, too.
        max_seconds: Of computing; by the clock it may be five times as long, on a machine that does other things.
        max_memory_bytes: Of its address space.

    Raises:
        InputError: As from `decode`, or beyond a limit, or the decoder crashes.
        TransientError: The clock has run out.
    """
    code = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", __name__, str(math.ceil(max_seconds)), str(max_memory_bytes), config.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(command, input=data, capture_output=True, timeout=5 * max_seconds, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise TransientError("the picture could not be decoded in time: the machine is too busy; submit again") from error
    if ended.returncode == _REFUSED:
        raise InputError(ended.stderr.decode().strip())
    if ended.returncode != 0:
        limits = f"{max_memory_bytes / 1e9:.1f} GB or {max_seconds:g} s"
        raise InputError(f"the picture breaks its decoder, or takes over {limits}; save it again as a plain PNG or JPEG")
    head, _, pixels = ended.stdout.partition(b"\n")
    mode, width, height = head.decode().split()
    return Image.frombytes(mode, (int(width), int(height)), pixels)


def _main(seconds: str, memory_bytes: str, config: str) -> None:
    for limit, most in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, "0")):
        resource.setrlimit(limit, (int(most), int(most)))
    # Nothing that a decoder is talked into can be written anywhere.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        image = decode(sys.stdin.buffer.read(), PrepareConfig.model_validate_json(config))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)
    except MemoryError:
        sys.exit(3)
    sys.stdout.buffer.write(f"{image.mode} {image.width} {image.height}\n".encode())
    sys.stdout.buffer.write(image.tobytes())


if __name__ == "__main__":
    _main(*sys.argv[1:])
