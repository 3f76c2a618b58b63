"""Cutting the object out of a picture without alpha: rembg where it is installed with a model, else OpenCV."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from img2mesh.errors import ArtifactError, InputError

# Pictures are matted at this longest side; only the edge is looked at more closely.
MATTING_SIDE_PX = 512
EDGE_SIDE_PX = 1024
GRABCUT_SIDE_PX = 320
# How a border that is not plain is summed up, and how far from it (CIE Lab) an object may be expected.
BORDER_COLOURS = 8
CLUTTER_DISTANCE = 8.0
# A cut-out guessed from a background that is not plain is never surer than this.
MAX_CLUTTER_CONFIDENCE = 0.5

Matting = Literal["alpha", "rembg", "opencv"]
Texels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Matte:
    """A crop around the object.

    Attributes:
        rgb: float32 [height, width, 3] in [0, 1], sRGB, the object's own colours also where alpha is low.
        alpha: float32 [height, width] in [0, 1].
        source_px: Pixels of the submitted picture per pixel of the crop.
        confidence: In [0, 1].
    """

    rgb: Floats
    alpha: Floats
    source_px: float
    matting: Matting
    confidence: float


def unit_floats(image: Image.Image) -> Floats:
    """The pixels as float32 in [0, 1]."""
    return np.asarray(np.asarray(image, dtype=np.float32) / 255, dtype=np.float32)


def estimate_matte(image: Image.Image, model: Path | None) -> Matte:
    """The object in an opaque picture.

    Args:
        image: Mode "RGB".
        model: One of rembg's model files, or None for the OpenCV cut-out.

    Raises:
        InputError: Nothing can be told from the background.
        ArtifactError: rembg does not find the model.
    """
    if model is None:
        mask, confidence = cut_out(np.asarray(_shrunk(image, MATTING_SIDE_PX)))
        return _refined(image, mask, confidence)
    shrunk = _shrunk(image, EDGE_SIDE_PX)
    alpha, confidence = _rembg_alpha(shrunk, model)
    return Matte(
        rgb=_decontaminated(unit_floats(shrunk), alpha),
        alpha=alpha,
        source_px=max(image.size) / max(shrunk.size),
        matting="rembg",
        confidence=confidence,
    )


def _shrunk(image: Image.Image, side_px: int) -> Image.Image:
    scale = side_px / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)


def cut_out(rgb: Texels) -> tuple[Bools, float]:
    """The largest object that differs from the colours along the border, and how sure that is.

    A plain background (also one with a linear gradient) is modelled and subtracted; any other is left to GrabCut, seeded by
    the colours of the border.

    Args:
        rgb: uint8 [height, width, 3].

    Returns:
        A mask [height, width] without holes, except those through which a plain background shows, and a confidence in [0, 1].

    Raises:
        InputError: Nothing stands out, or nearly everything does.

    Source: Rother, Kolmogorov and Blake, GrabCut, 2004.
    """
    lab = _smoothed_lab(rgb)
    ring = _border_ring(lab.shape[:2])
    distance, noise = _background_distance(lab, ring)
    threshold = max(5.0, 2.5 * noise)
    plain = _is_plain(distance, threshold) and noise < 5.0
    if plain:
        mask = _plain_mask(distance, threshold)
    else:
        distance, threshold = _unlike_border(lab, ring), CLUTTER_DISTANCE
        mask = _grabcut_mask(rgb)
    covered = float(mask.mean())
    if covered < 1e-3 or covered > 0.97:
        raise InputError("no object stands out from the background; give a picture on a plain background, or a PNG with alpha")
    inside = 1 - min(1.0, float(mask[_border_ring(mask.shape, width=1)].mean()) / 0.25)
    confidence = inside * _outline_sharpness(distance, mask, threshold)
    return mask, round(confidence if plain else min(confidence, MAX_CLUTTER_CONFIDENCE), 3)


def _is_plain(distance: Floats, threshold: float) -> bool:
    """Whether most of the border has the fitted colour, and the rest is in a few pieces: an object that is cut, no texture."""
    around = np.concatenate([distance[0], distance[1:, -1], distance[-1, -2::-1], distance[-2:0:-1, 0]]) > threshold
    pieces = np.count_nonzero(around & ~np.roll(around, 1))
    return bool(around.mean() < 0.4 and (pieces <= 6 or around.mean() < 0.02))


def _outline_sharpness(distance: Floats, mask: Bools, threshold: float) -> float:
    """Share of the outline with a clear step in colour: an outline that only follows the shading has none."""
    outline = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)
    return float((_local_peak(distance)[outline] > 2 * threshold).mean()) if outline.any() else 0.0


def _local_peak(distance: Floats) -> Floats:
    """The largest distance within two pixels."""
    return np.asarray(cv2.dilate(distance, np.ones((5, 5), np.uint8)), dtype=np.float32)


def _smoothed_lab(rgb: Texels) -> Floats:
    """CIE L*a*b* after a light blur against noise and JPEG blocks: distances are then about what people see."""
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (3, 3), 0).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(lab, dtype=np.float32)


def _border_ring(shape: tuple[int, ...], width: int | None = None) -> Bools:
    width = max(2, round(0.03 * min(shape))) if width is None else width
    ring = np.ones(shape, dtype=np.bool_)
    ring[width:-width, width:-width] = False
    return ring


def _background_distance(lab: Floats, ring: Bools) -> tuple[Floats, float]:
    """Colour distance of each pixel to a linear gradient fitted robustly to the border, and the fit's robust sigma."""
    height, width = ring.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    basis = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=-1)
    samples, positions = lab[ring].astype(np.float64), basis[ring].astype(np.float64)
    residual = np.linalg.norm(samples - np.median(samples, axis=0), axis=1)
    fit = np.zeros((3, 3))
    for _ in range(6):
        # At least half of the border counts, whatever the rest shows.
        near = residual <= max(3 * 1.4826 * float(np.median(residual)), 2.0)
        fit = np.linalg.lstsq(positions[near], samples[near], rcond=None)[0]
        residual = np.linalg.norm(samples - positions @ fit, axis=1)
    distance = np.linalg.norm(lab - basis @ fit.astype(np.float32), axis=-1)
    return distance.astype(np.float32), 1.4826 * float(np.median(residual))


def _plain_mask(distance: Floats, threshold: float) -> Bools:
    """The largest object: everything but the background's colour where that reaches the border or shows through a hole.

    Where the outline has no step, part of the object has the background's colour; then its pieces are joined across.
    """
    unlike = distance > threshold
    count, labels = cv2.connectedComponents((~unlike).astype(np.uint8), connectivity=4)
    outside = np.zeros(count, dtype=np.bool_)
    outside[np.unique(labels[_border_ring(labels.shape, width=1)])] = True
    peak = _local_peak(distance)
    for label in range(1, count):
        outside[label] = outside[label] or _is_hole(distance, peak, labels == label, threshold)
    outside[0] = False
    opened = cv2.morphologyEx((~outside[labels]).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = _largest_component(opened > 0)
    if _outline_sharpness(distance, mask, threshold) > 0.7:
        return mask
    return _largest_component(_filled(_morphed(opened > 0, cv2.MORPH_CLOSE, round(0.04 * max(mask.shape)))))


def _morphed(mask: Bools, operation: int, radius_px: int) -> Bools:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    padded = np.pad(mask.astype(np.uint8), radius_px)
    inner = slice(radius_px, -radius_px)
    return np.asarray(cv2.morphologyEx(padded, operation, kernel)[inner, inner] > 0)


def _is_hole(distance: Floats, peak: Floats, region: Bools, threshold: float) -> bool:
    """Whether the background shows through: the very same colour, with a sharp step all around.

    A pale patch of the object or a highlight has another shade, or fades out.
    """
    if region.sum() < 0.0003 * region.size or np.median(distance[region]) > 0.4 * threshold:
        return False
    rim = region & (cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    return float(np.percentile(peak[rim], 20)) > 2 * threshold


def _grabcut_mask(rgb: Texels) -> Bools:
    """GrabCut from the border inwards; the bottom may belong to the object, which often stands on it."""
    scale = min(1.0, GRABCUT_SIDE_PX / max(rgb.shape[:2]))
    size = (max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale)))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    ring = _border_ring(small.shape[:2])
    unlike = _unlike_border(_smoothed_lab(small), ring)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    central = ((x / size[0] - 0.5) / 0.4) ** 2 + ((y / size[1] - 0.5) / 0.45) ** 2 < 1
    labels = np.full(small.shape[:2], cv2.GC_PR_BGD, dtype=np.uint8)
    labels[central & (unlike > max(CLUTTER_DISTANCE, float(np.median(unlike[central]))))] = cv2.GC_PR_FGD
    ring[-max(2, round(0.03 * min(labels.shape))) :, size[0] // 5 : -size[0] // 5] = False
    labels[ring] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any():
        return np.zeros(rgb.shape[:2], dtype=np.bool_)
    # GrabCut's k-means draws from OpenCV's global generator.
    cv2.setRNGSeed(0)
    empty = np.zeros((1, 65))
    cv2.grabCut(small, labels, (0, 0, 0, 0), empty, empty.copy(), 5, cv2.GC_INIT_WITH_MASK)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not 0.005 < found.mean() < 0.9:
        # Its colour models have swallowed each other.
        found = unlike > CLUTTER_DISTANCE
    # Stray lines of the background hang on to the object by thin bridges; its own thin parts lie near its body.
    radius = max(2, round(0.02 * max(size)))
    body = _largest_component(_morphed(found, cv2.MORPH_OPEN, radius))
    near = _filled(_largest_component(found & _morphed(body, cv2.MORPH_DILATE, 2 * radius)))
    return cv2.resize(near.astype(np.uint8) * 255, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR) > 127


def _unlike_border(lab: Floats, ring: Bools) -> Floats:
    """Colour distance to the nearest of the colours that make up the border."""
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    samples = lab[ring]
    count = min(BORDER_COLOURS, len(samples))
    centres = cv2.kmeans(samples, count, np.empty(0, np.int32), stop, 2, cv2.KMEANS_PP_CENTERS)[2]
    distances = [np.linalg.norm(lab - centre, axis=-1) for centre in np.asarray(centres)]
    return np.asarray(np.min(distances, axis=0), dtype=np.float32)


def _filled(mask: Bools) -> Bools:
    """The mask without holes."""
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(mask), dtype=np.bool_)


def _largest_component(mask: Bools) -> Bools:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(mask)
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def _refined(image: Image.Image, mask: Bools, confidence: float) -> Matte:
    """The crop around a coarse mask at a finer resolution, with a soft edge measured from the colours on both sides of it."""
    coarse = image.width / mask.shape[1]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = 4 + max(len(rows), len(columns)) // 16
    low = np.maximum([columns[0] - margin, rows[0] - margin], 0)
    high = np.minimum([columns[-1] + 1 + margin, rows[-1] + 1 + margin], mask.shape[::-1])
    box = tuple(float(v) for v in (*low * coarse, *np.minimum(high * coarse, image.size)))
    side = max(box[2] - box[0], box[3] - box[1])
    fine = max(1.0, side / EDGE_SIDE_PX)
    size = (max(1, round((box[2] - box[0]) / fine)), max(1, round((box[3] - box[1]) / fine)))
    rgb = unit_floats(image.resize(size, Image.Resampling.BOX, box=(box[0], box[1], box[2], box[3])))
    cropped = mask[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    soft = cv2.resize(cropped, size, interpolation=cv2.INTER_LINEAR)
    alpha = _edge_alpha(rgb, np.asarray(soft, dtype=np.float32), reach_px=math.ceil(1.5 * coarse / fine) + 1)
    return Matte(rgb=_decontaminated(rgb, alpha), alpha=alpha, source_px=fine, matting="opencv", confidence=confidence)


def _edge_alpha(rgb: Floats, soft: Floats, *, reach_px: int) -> Floats:
    """Alpha near the edge by where the colour lies between the nearest sure object and the nearest sure background.

    alpha = (C - B) . (F - B) / |F - B|^2; where both sides look alike, the coarse mask stays.
    """
    inside = soft > 0.5
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach_px + 1, 2 * reach_px + 1))
    # A thin part must not vanish for having no sure inside.
    sure = cv2.erode(inside.astype(np.uint8), kernel).astype(np.bool_)
    if not sure.any():
        return soft
    away = ~cv2.dilate(inside.astype(np.uint8), kernel).astype(np.bool_)
    if not away.any():
        return soft
    front, back = _spread(rgb, sure), _spread(rgb, away)
    contrast = ((front - back) ** 2).sum(axis=-1)
    measured = np.clip(((rgb - back) * (front - back)).sum(axis=-1) / np.maximum(contrast, 1e-6), 0, 1)
    near_sure = cv2.dilate(sure.astype(np.uint8), kernel, iterations=2).astype(np.bool_)
    use = ~sure & ~away & near_sure & (contrast > 0.1**2)
    alpha = np.where(use, measured, soft)
    return np.asarray(np.where(sure, 1.0, np.where(away, 0.0, alpha)), dtype=np.float32)


def _decontaminated(rgb: Floats, alpha: Floats) -> Floats:
    """Colours whose half-transparent edge holds the object's colour instead of a mixture with the old background."""
    solid = alpha > 0.95
    if not solid.any():
        return rgb
    own = np.clip((alpha - 0.5) * 2, 0, 1)[..., None] ** 2
    return np.asarray(np.where(solid[..., None], rgb, own * rgb + (1 - own) * _spread(rgb, solid)), dtype=np.float32)


def _spread(rgb: Floats, where: Bools) -> Floats:
    """Each pixel's nearest colour among the given ones."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~where, return_distances=False, return_indices=True)
    spread: Floats = rgb[nearest[0], nearest[1]]
    return spread


def _rembg_alpha(image: Image.Image, model: Path) -> tuple[Floats, float]:
    """Alpha by rembg of the largest object, and how decided it is."""
    if find_spec("rembg") is None or find_spec("onnxruntime") is None:
        raise ArtifactError(f"matting model {model.stem} needs rembg: pip install 'img2mesh[matting]' and submit again")
    import rembg
    from rembg.sessions import sessions_class

    session_class = next(c for c in sessions_class if c.name() == model.stem)
    # Older versions know one folder only; whatever the version, nothing may be fetched here.
    resolve = getattr(session_class, "resolve_existing", lambda file: Path(session_class.u2net_home()) / file)
    found = resolve(model.name)
    if found is None or not Path(found).is_file():
        raise ArtifactError(
            f"rembg does not look for {model.name} in {model.parent}; set U2NET_HOME to the folder that holds it"
        )
    output = rembg.remove(image, session=rembg.new_session(model.stem), only_mask=True)
    alpha = unit_floats(output.convert("L"))
    kept = cv2.dilate(_largest_component(alpha > 0.5).astype(np.uint8), np.ones((9, 9), np.uint8))
    if not kept.any():
        raise InputError("no object was found; give a picture on a plain background, or a PNG with alpha")
    alpha = np.where(kept > 0, alpha, np.float32(0))
    inside = 1 - min(1.0, float((alpha[_border_ring(alpha.shape, width=1)] > 0.5).mean()) / 0.25)
    decided = float(np.abs(2 * alpha[kept > 0] - 1).mean())
    return alpha, round(inside * decided, 3)
