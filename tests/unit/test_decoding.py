"""A picture is decoded apart, within limits, and comes out as it does here."""

import io

import pytest
from PIL import Image

from img2mesh.data.config import PrepareConfig
from img2mesh.data.decoding import decode_apart
from img2mesh.data.preprocess import decode
from img2mesh.errors import InputError, TransientError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("RGB", "JPEG"), ("I;16", "PNG")])
def test_the_picture_is_the_same_as_decoded_here(mode: str, kind: str) -> None:
    data = encoded(Image.linear_gradient("L").convert("RGB" if mode == "I;16" else mode).resize((70, 40)), kind)
    here, apart = decode(data, PrepareConfig()), decode_apart(data, PrepareConfig())
    assert (here.mode, here.size, here.tobytes()) == (apart.mode, apart.size, apart.tobytes())


@pytest.mark.parametrize("data", [b"no picture", b"", encoded(Image.new("RGB", (64, 64)))])
def test_a_refusal_says_the_same(data: bytes) -> None:
    with pytest.raises(InputError) as here:
        decode(data, PrepareConfig())
    with pytest.raises(InputError) as apart:
        decode_apart(data, PrepareConfig())
    assert str(here.value) == str(apart.value)


def test_a_small_file_that_wants_much_memory_is_refused() -> None:
    bomb = encoded(Image.new("RGB", (7000, 7000)))
    assert len(bomb) < 500_000
    with pytest.raises(InputError, match=r"breaks its decoder, or takes over 0\.2 GB"):
        decode_apart(bomb, PrepareConfig(), max_memory_bytes=200_000_000)


def test_a_busy_machine_is_no_fault_of_the_picture() -> None:
    with pytest.raises(TransientError, match="too busy"):
        decode_apart(encoded(Image.linear_gradient("L")), PrepareConfig(), max_seconds=0.001)
