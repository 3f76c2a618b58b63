"""Any picture becomes the square cut-out that the pipeline starts from: decode, matte, crop, centre.

The object's tight box (alpha above one half) is centred and its longest side is three quarters of the frame.
"""

import io
import math
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from img2mesh.data.config import PrepareConfig
from img2mesh.data.matting import EDGE_SIDE_PX, Floats, Matte, Matting, Texels, estimate_matte, unit_floats
from img2mesh.errors import InputError

# Pillow reads the several pictures of an MPO file, which some cameras name .jpg, as JPEG: the first one counts.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")
FORMAT_NAMES = "PNG, JPEG, WebP, AVIF, TIFF or BMP"
Decoder = Callable[[bytes, PrepareConfig], Image.Image]
# The object's longest side over the frame's side.
FILL = 0.75
# A matte counts as given when at least this share of the picture is transparent: rounded corners alone are no matte.
MIN_TRANSPARENT_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A picture ready for the pipeline.

    Attributes:
        rgba: uint8 [size, size, 4], sRGB, straight alpha.
        matting: Where the alpha comes from; "opencv" is the fallback.
        confidence: In [0, 1]; 1 for an alpha channel that came with the picture.
    """

    rgba: Texels
    matting: Matting
    confidence: float


def prepare_picture(
    data: bytes, config: PrepareConfig, *, name: str, matting_model: Path | None = None, decoder: Decoder | None = None
) -> Prepared:
    """The object in a picture, cut out, centred and scaled.

    Args:
        data: A picture file's bytes.
        name: Stands in front of every error.
        matting_model: One of rembg's model files, see `config.find_matting_model`, for pictures without an alpha of their own;
            None: the OpenCV cut-out.
        decoder: Stands in for `decode`, such as `decoding.decode_apart`.

    Raises:
        InputError: No readable picture, beyond the limits, or without an object that can be told from its background.
        ArtifactError: rembg does not find the model.
    """
    try:
        image = (decoder or decode)(data, config)
        matte = _given_matte(image) if _has_matte(image) else estimate_matte(image.convert("RGB"), matting_model)
        box = tight_box(matte.alpha)
        _check_object_size(box, matte.source_px, config)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    rgba = frame(matte.rgb, matte.alpha, box, size_px=config.size_px)
    return Prepared(rgba=rgba, matting=matte.matting, confidence=matte.confidence)


def decode(data: bytes, config: PrepareConfig) -> Image.Image:
    """The picture upright, 8-bit sRGB, as mode "RGB" or "RGBA".

    Raises:
        InputError: Empty, too large, too small, broken, of another format, fully transparent, or all one colour.
    """
    if not data:
        raise InputError("the file is empty (0 bytes); submit the picture again")
    if len(data) > config.max_bytes:
        raise InputError(f"the file has {len(data):,} bytes, at most {config.max_bytes:,} are read; submit a smaller one")
    image = _load(data, config)
    width, height = image.size
    if min(width, height) < config.min_side_px:
        raise InputError(f"the picture is {width}x{height} px; give one of at least {config.min_side_px} px each way")
    if image.mode == "RGBA" and not any(image.getchannel("A").histogram()[128:]):
        raise InputError("the picture is fully transparent; give one that shows an object")
    extrema = np.array(image.getextrema()).reshape(-1, 2)
    # JPEG's rounding moves a flat colour by one or two.
    if (np.ptp(extrema, axis=1) <= 2).all():
        raise InputError("the picture is all one colour; give one that shows an object")
    return image


def _load(data: bytes, config: PrepareConfig) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own limit decides; Pillow's warning about large pictures would only repeat it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, config)
                image.load()
                return _eight_bit_srgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture has over {config.max_pixels / 1e6:.0f} megapixels; submit a smaller one") from error
    except UnidentifiedImageError as error:
        raise InputError(f"this is no readable {FORMAT_NAMES} file (it begins with {data[:8]!r}); convert it to PNG") from error
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the picture is broken or cut short ({reason}); save it again and submit that") from error


def _check_size(size: tuple[int, int], config: PrepareConfig) -> None:
    if size[0] * size[1] > config.max_pixels:
        limit = f"at most {config.max_pixels / 1e6:.0f} megapixels are read"
        raise InputError(f"the picture is {size[0]}x{size[1]} px, {limit}; submit a smaller one")


def _eight_bit_srgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    rgb = _to_srgb(image)
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb


def _eight_bits(grey: npt.NDArray[Any]) -> Texels:
    """Grey values of 16, 32 or floating bits, by the range that their values show."""
    values = np.nan_to_num(grey.astype(np.float64))
    top = values.max()
    if grey.dtype == np.uint16:
        full = 65535.0
    elif np.issubdtype(grey.dtype, np.floating):
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        full = 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    eight: Texels = np.round(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
    return eight


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB by the embedded profile when there is a usable one; a profile that says sRGB changes nothing."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            # A profile for another colour space, or a broken one: the numbers are then read as sRGB, as browsers do.
            return image.convert("RGB")
    return image.convert("RGB")


def _has_matte(image: Image.Image) -> bool:
    """Whether the alpha channel cuts something out."""
    if image.mode != "RGBA":
        return False
    histogram = image.getchannel("A").histogram()
    return sum(histogram[:128]) >= MIN_TRANSPARENT_SHARE * image.width * image.height


def _given_matte(image: Image.Image) -> Matte:
    """The picture's own alpha, cropped to the object and reduced as far as nothing of the result is lost."""
    # `decode` has made sure that something is visible.
    left, top, right, bottom = image.getchannel("A").point([0] * 128 + [255] * 128).getbbox() or (0, 0, *image.size)
    margin = 2 + max(right - left, bottom - top) // 16
    right, bottom = min(right + margin, image.width), min(bottom + margin, image.height)
    crop = image.crop((max(left - margin, 0), max(top - margin, 0), right, bottom))
    factor = max(1, round(max(crop.size) / EDGE_SIDE_PX))
    if factor > 1:
        crop = crop.convert("RGBa").reduce(factor).convert("RGBA")
    pixels = unit_floats(crop)
    return Matte(rgb=pixels[..., :3], alpha=pixels[..., 3], source_px=factor, matting="alpha", confidence=1.0)


Box = tuple[int, int, int, int]


def tight_box(alpha: Floats) -> Box:
    """Left, top, right and bottom (exclusive) of the pixels whose alpha is above one half.

    Raises:
        InputError: There are none.
    """
    rows, columns = (np.flatnonzero((alpha > 0.5).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        raise InputError("no object was found; give a picture on a plain background, or a PNG with alpha")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _check_object_size(box: Box, source_px: float, config: PrepareConfig) -> None:
    longest = max(box[2] - box[0], box[3] - box[1]) * source_px
    if longest < config.min_side_px:
        needed = f"at least {config.min_side_px} are needed"
        raise InputError(f"the object's longest side is {longest:.0f} px, {needed}; give a closer view")


def frame(rgb: Floats, alpha: Floats, box: Box, *, size_px: int) -> Texels:
    """The object centred on a square, its box spanning three quarters of it.

    Resampled on premultiplied colours, so that nothing bleeds in from transparent pixels.

    Args:
        rgb: float32 [height, width, 3] in [0, 1].
        alpha: float32 [height, width] in [0, 1].
        box: Of the object, pixels, see `tight_box`.

    Returns:
        uint8 [size, size, 4], straight alpha.
    """
    half = max(box[2] - box[0], box[3] - box[1]) / FILL / 2
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    origin = (math.floor(centre[0] - half), math.floor(centre[1] - half))
    window = _window(np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=-1), origin, math.ceil(2 * half) + 1)
    x, y = centre[0] - origin[0], centre[1] - origin[1]
    around = (x - half, y - half, x + half, y + half)
    colour, weight = np.split(_resized(window, size_px, around, Image.Resampling.LANCZOS), [3], axis=-1)
    # Lanczos rings: colour and weight alike, so their quotient does not, but as alpha the weight would show it.
    alpha = _resized(window[..., 3:], size_px, around, Image.Resampling.HAMMING)
    result = np.concatenate([colour / np.maximum(weight, 1 / 512), alpha], axis=-1)
    pixels: Texels = np.round(np.clip(result, 0, 1) * 255).astype(np.uint8)
    # What is invisible has no colour.
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def _window(pixels: Floats, origin: tuple[int, int], side: int) -> Floats:
    """A square part of a picture that may reach beyond it, where it is zero."""
    height, width = pixels.shape[:2]
    (x, y), window = origin, np.zeros((side, side, pixels.shape[2]), dtype=np.float32)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    window[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
    return window


def _resized(pixels: Floats, size_px: int, box: tuple[float, float, float, float], kernel: Image.Resampling) -> Floats:
    bands = [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[2])]
    resized = [np.asarray(band.resize((size_px, size_px), kernel, box=box), dtype=np.float32) for band in bands]
    return np.stack(resized, axis=-1)
