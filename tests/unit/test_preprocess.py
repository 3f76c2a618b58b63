"""Preparation: every format, every bad input, and where the object ends up."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from img2mesh.data.config import PrepareConfig, find_matting_model
from img2mesh.data.matting import cut_out
from img2mesh.data.preprocess import decode, frame, prepare_picture, tight_box
from img2mesh.errors import ArtifactError, InputError
from img2mesh.manifests import SourceImage, WeightsRef
from img2mesh.storage import open_store
from stages.prepare import STAGE, Params

CONFIG = PrepareConfig(size_px=128)
RED = (200, 40, 30)
# A red block of 120 x 80 px in a picture of 300 x 200 px.
BLOCK = (90, 50, 210, 130)
Texels = npt.NDArray[np.uint8]


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def block(mode: str = "RGB", background: tuple[int, ...] = (255, 255, 255)) -> Image.Image:
    image = Image.new("RGB", (300, 200), background)
    image.paste(RED, BLOCK)
    return image.convert(mode)


def block_with_alpha() -> Image.Image:
    image = block("RGBA", background=(0, 255, 0))
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, BLOCK)
    image.putalpha(alpha)
    return image


def box_of(rgba: Texels) -> tuple[int, int, int, int]:
    return tight_box(rgba[..., 3].astype(np.float32) / 255)


def colour_of(rgba: Texels) -> list[int]:
    return np.median(rgba[rgba[..., 3] > 250][:, :3], axis=0).astype(int).tolist()


# 120 x 80 px become 96 x 64 px in the middle of 128 x 128 px.
EXPECTED_BOX = (16, 32, 112, 96)


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ],
)
def test_every_format_is_cut_out_and_centred(format_name: str, options: dict[str, object]) -> None:
    prepared = prepare_picture(saved(block(), format_name, **options), CONFIG, name="block")
    assert prepared.rgba.shape == (128, 128, 4)
    assert prepared.matting == "opencv"
    assert prepared.confidence > 0.9
    assert box_of(prepared.rgba) == pytest.approx(EXPECTED_BOX, abs=1)
    assert colour_of(prepared.rgba) == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "1", "LA", "RGBA", "PA"])
def test_every_colour_mode_is_read(mode: str) -> None:
    format_name = {"CMYK": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    image = block("L").convert("LA").convert("PA") if mode == "PA" else block(mode)
    prepared = prepare_picture(saved(image, format_name), CONFIG, name="block")
    assert box_of(prepared.rgba) == pytest.approx(EXPECTED_BOX, abs=1)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    values = np.full((200, 300), 65535, dtype=np.uint16)
    values[50:130, 90:210] = 0x4080
    image = decode(saved(Image.fromarray(values), "PNG"), CONFIG)
    # 0x4080 / 257 = 64.25
    assert image.getpixel((150, 90)) == (64, 64, 64)
    assert image.getpixel((5, 5)) == (255, 255, 255)


def test_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees when shown
    image = Image.new("RGB", (100, 60), "white")
    image.paste(RED, (0, 0, 20, 20))
    upright = decode(saved(image, "JPEG", exif=exif, quality=95), CONFIG)
    assert upright.size == (60, 100)
    assert upright.getpixel((55, 5)) == pytest.approx(RED, abs=8)


def linear_light_profile() -> bytes:
    """An ICC profile with sRGB's primaries whose numbers are linear light."""

    def xyz(*values: float) -> bytes:
        return struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in values))

    curve = struct.pack(">4s4xI", b"curv", 0)
    name = b"linear\0"
    text = struct.pack(">4s4xI", b"desc", len(name)) + name + bytes(78)
    tags = {
        b"desc": text + bytes(-len(text) % 4),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7139),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    illuminant = xyz(0.9642, 1.0, 0.8249)[8:]
    header = struct.pack(">I4sI4s4s4s12x4s28x", size, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (header + illuminant).ljust(128, b"\0") + table + body


def test_an_embedded_profile_is_applied() -> None:
    # Half of the linear light is 188 in sRGB: 1.055 * (128 / 255) ** (1 / 2.4) - 0.055 = 0.737.
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    data = saved(image, "PNG", icc_profile=linear_light_profile())
    assert decode(data, CONFIG).getpixel((50, 50)) == pytest.approx((188, 188, 188), abs=1)


def test_an_srgb_profile_or_a_broken_one_changes_nothing() -> None:
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"no profile"):
        assert decode(saved(block(), "PNG", icc_profile=profile), CONFIG).getpixel((100, 60)) == RED


def test_an_alpha_channel_is_the_matte() -> None:
    prepared = prepare_picture(saved(block_with_alpha(), "PNG"), CONFIG, name="block")
    assert (prepared.matting, prepared.confidence) == ("alpha", 1.0)
    assert box_of(prepared.rgba) == EXPECTED_BOX
    # The green that hides behind alpha 0 does not bleed in.
    visible = prepared.rgba[prepared.rgba[..., 3] > 8]
    assert visible[:, 1].max() <= RED[1] + 2


def test_palette_transparency_is_the_matte() -> None:
    image = block("RGB").quantize(4)
    data = saved(image, "PNG", transparency=image.getpixel((0, 0)))
    assert prepare_picture(data, CONFIG, name="block").matting == "alpha"


def test_an_alpha_channel_that_cuts_nothing_out_is_ignored() -> None:
    assert prepare_picture(saved(block("RGBA"), "PNG"), CONFIG, name="block").matting == "opencv"


def test_a_large_cut_out_is_reduced_to_the_same_place() -> None:
    large = block_with_alpha().resize((3000, 2000), Image.Resampling.NEAREST)
    assert box_of(prepare_picture(saved(large, "PNG"), CONFIG, name="block").rgba) == EXPECTED_BOX


@pytest.mark.parametrize("size", [(37, 61), (61, 37), (50, 50), (33, 400)])
@pytest.mark.parametrize("corner", [(0, 0), (13, 7)])
def test_the_box_is_centred_and_spans_three_quarters(size: tuple[int, int], corner: tuple[int, int]) -> None:
    alpha = np.zeros((450, 450), dtype=np.float32)
    alpha[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]] = 1
    rgba = frame(np.full((450, 450, 3), 0.5, dtype=np.float32), alpha, tight_box(alpha), size_px=256)
    left, top, right, bottom = box_of(rgba)
    assert max(right - left, bottom - top) == pytest.approx(192, abs=1)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((128, 128), abs=0.5)
    assert rgba[rgba[..., 3] == 255][:, :3].astype(float) == pytest.approx(127.5, abs=1.5)


def test_the_same_bytes_give_the_same_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.paste(RED, BLOCK)
    data = saved(picture, "PNG")
    first, second = (prepare_picture(data, CONFIG, name="block") for _ in range(2))
    assert np.array_equal(first.rgba, second.rgba)
    assert first.confidence == second.confidence <= 0.5


def flat(value: int, mode: str = "RGB") -> bytes:
    return saved(Image.new(mode, (64, 64), (value,) * len(Image.new(mode, (1, 1)).getbands())), "PNG")


def bomb() -> bytes:
    """A PNG whose header says 40,000 x 40,000; whoever decodes it finds no pixels."""
    data = bytearray(saved(block(), "PNG"))
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    return bytes(data[:29]) + zlib.crc32(data[12:29]).to_bytes(4, "big") + bytes(data[33:])


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty (0 bytes)"),
    "text": (lambda: b"hello, this is no picture", "no readable PNG, JPEG"),
    "truncated jpeg": (lambda: saved(block(), "JPEG")[:600], "broken or cut short"),
    "truncated png": (lambda: saved(block(), "PNG")[:200], "broken or cut short"),
    "truncated webp": (lambda: saved(block(), "WEBP", lossless=True)[:60], "; "),
    "truncated avif": (lambda: saved(block(), "AVIF")[:200], "; "),
    "gif": (lambda: saved(block(), "GIF"), "convert it to PNG"),
    "one pixel": (lambda: saved(Image.new("RGB", (1, 1)), "PNG"), "1x1 px"),
    "bomb": (bomb, "megapixels"),
    "transparent": (lambda: flat(0, "RGBA"), "fully transparent"),
    "black": (lambda: flat(0), "all one colour"),
    "white with alpha": (lambda: flat(255, "RGBA"), "all one colour"),
    "flat jpeg": (lambda: saved(Image.new("RGB", (64, 64), (90, 60, 33)), "JPEG"), "all one colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(InputError) as caught:
        prepare_picture(make(), CONFIG, name="my picture.png")
    message = str(caught.value)
    assert message.startswith("my picture.png: ")
    assert words in message
    assert "\n" not in message


def test_limits_are_checked_before_decoding() -> None:
    data = saved(block(), "PNG")
    with pytest.raises(InputError, match="300x200 px"):
        decode(data, PrepareConfig(max_pixels=59_999))
    with pytest.raises(InputError, match=f"has {len(data):,} bytes"):
        decode(data, PrepareConfig(max_bytes=len(data) - 1))


def test_a_tiny_object_is_refused() -> None:
    image = Image.new("RGBA", (400, 400))
    image.paste((*RED, 255), (100, 100, 131, 110))
    with pytest.raises(InputError, match="longest side is 31 px"):
        prepare_picture(saved(image, "PNG"), CONFIG, name="x")


def test_noise_without_an_object_is_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="object"):
        prepare_picture(saved(Image.fromarray(noise), "PNG"), CONFIG, name="x")


def disc_picture(background: npt.NDArray[np.float64]) -> tuple[Texels, npt.NDArray[np.bool_]]:
    """A blue disc with a hole, over the given background."""
    y, x = np.mgrid[0:256, 0:256] - 128.0
    radius = np.hypot(x, y)
    mask = (radius < 90) & (radius > 30)
    rgb = np.where(mask[..., None], (40.0, 60.0, 180.0), background)
    return np.clip(rgb, 0, 255).astype(np.uint8), mask


def iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_plain_white_shows_through_a_hole() -> None:
    rgb, mask = disc_picture(np.full((256, 256, 3), 255.0))
    found, confidence = cut_out(rgb)
    # The outline is a pixel wide of the truth on either side; the edge is measured later.
    assert iou(found, mask) > 0.95
    assert confidence > 0.95


def test_a_gradient_with_noise_is_a_plain_background() -> None:
    ramp = np.linspace(120, 230, 256)[:, None, None] + np.array([0.0, 5.0, -10.0])
    noise = np.random.default_rng(0).normal(0, 3, (256, 256, 3))
    rgb, mask = disc_picture(ramp + noise)
    found, confidence = cut_out(rgb)
    assert iou(found, mask) > 0.95
    assert confidence > 0.9


def test_a_highlight_is_no_hole() -> None:
    y, x = np.mgrid[0:256, 0:256] - 128.0
    shine = np.exp(-((x - 20) ** 2 + (y + 20) ** 2) / (2 * 18**2))[..., None]
    disc = (np.hypot(x, y) < 90)[..., None]
    colour = np.array([60.0, 80.0, 90.0]) * (1 - shine) + np.minimum(400 * shine, 255)
    rgb = np.where(disc, np.clip(colour, 0, 255), 255.0).astype(np.uint8)
    assert iou(cut_out(rgb)[0], disc[..., 0]) > 0.97


def test_an_object_cut_by_the_border_is_less_sure() -> None:
    rgb = np.full((200, 200, 3), 255, dtype=np.uint8)
    rgb[60:, 40:160] = (20, 90, 40)
    found, confidence = cut_out(rgb)
    assert iou(found, np.asarray((rgb != 255).any(axis=-1))) > 0.97
    assert confidence < 0.6


def test_the_edge_keeps_the_objects_colour() -> None:
    # Four-fold supersampling gives the edge pixels mixed colours, as a camera does.
    fine = Image.new("RGB", (1200, 800), "white")
    fine.paste((20, 20, 120), (363, 203, 838, 521))
    rgba = prepare_picture(saved(fine.resize((300, 200), Image.Resampling.BOX), "PNG"), CONFIG, name="x").rgba
    edge = rgba[(rgba[..., 3] > 40) & (rgba[..., 3] < 215)]
    assert len(edge) > 0
    assert edge[:, 0].mean() < 60


def test_a_matting_model_is_found_only_with_rembg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    (tmp_path / "u2net.onnx").write_bytes(b"weights")
    monkeypatch.setattr("img2mesh.data.config.find_spec", lambda name: None)
    assert find_matting_model() is None
    monkeypatch.setattr("img2mesh.data.config.find_spec", lambda name: object())
    assert find_matting_model() == tmp_path / "u2net.onnx"
    (tmp_path / "u2net.onnx").unlink()
    assert find_matting_model() is None


def test_a_missing_rembg_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("img2mesh.data.matting.find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="img2mesh\\[matting\\]"):
        prepare_picture(saved(block(), "PNG"), CONFIG, name="x", matting_model=tmp_path / "u2net.onnx")


def test_the_stage_stores_a_png_and_says_how_it_matted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    data = saved(block_with_alpha(), "PNG")
    source = SourceImage(name="block", image=store.put_blob(data, "image/png"))
    made = STAGE(source, Params(config=CONFIG), store)
    assert (made.matting, made.matting_confidence, made.source) == ("alpha", 1.0, source)
    with Image.open(io.BytesIO(store.get_blob(made.image))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (128, 128))


def test_the_stage_wants_the_very_model_of_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    store = open_store(str(tmp_path / "store"))
    source = SourceImage(name="block", image=store.put_blob(saved(block(), "PNG"), "image/png"))
    params = Params(config=CONFIG, matting_model=WeightsRef(name="u2net", sha256="0" * 64))
    with pytest.raises(ArtifactError, match="u2net"):
        STAGE(source, params, store)
