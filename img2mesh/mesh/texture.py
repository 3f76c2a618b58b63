"""The texture, baked texel by texel: the input picture on the front, the generated views around it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import distance_transform_edt, minimum_filter
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu

from img2mesh.geometry.cameras import Cameras, project, rays
from img2mesh.geometry.views import Views
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.render import THREADS, bilinear, interpolate, ray_scene, tensor
from img2mesh.mesh.topology import Floats, coincident
from img2mesh.mesh.uv import TexturedMesh, UnwrappedMesh

# Visibility is tested this far off the surface, scene units: half a voxel of a grid of 128.
LIFT = 0.008
# A view sees nothing at a flatter angle than this cosine.
SMALLEST_COSINE = 0.05
# The colour of a pixel is its own from this coverage up.
OPAQUE = 0.95
# A vertex has a colour of its own from this much of coloured texels up.
SMALLEST_SHARE = 0.1
# Views are compared with the picture from this sum of weights of common texels up.
SMALLEST_OVERLAP = 100.0
# Variance of colours at which a gain is as likely as none.
GAIN_PRIOR = 0.01
# A sum of weights from which on the views alone say what a texel's colour is; below, the neighbourhood has a say.
SURE = 0.05
# A view fades out towards what hides the surface from it, this far, as a share of the picture's side.
FADE_SHARE = 1 / 32
_FADE_STEPS = 4
# What is less far in front than this hides nothing, scene units.
STEP = 0.03
# Of the mean colour on unseen vertices, against one neighbour.
PULL = 1e-6
# The same of no correction, beside the picture: it fades over some twenty edges.
FORGETTING = 0.01


@dataclass(frozen=True, kw_only=True)
class _Texels:
    """Covered texels.

    Attributes:
        places: [texel] flat places on the texture.
        corners: [texel, 3] vertices of the face of each.
        shares: [texel, 2] barycentric coordinates of the second and the third.
        points: [texel, 3] in the world.
        normals: [texel, 3] outward, unit.
    """

    places: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    shares: Floats
    points: Floats
    normals: Floats


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One posed picture, its colours continued beyond its silhouette.

    Attributes:
        camera: One camera of the picture's size.
        rgb: float32 [height, width, 3], straight sRGB in [0, 1].
        depth_inside_px: float32 [height, width, 1], distance to the silhouette; 0 outside.
        nearest: float32 [ring, height, width], z-depth of what is nearest in ever wider squares around each pixel; no ring for
            a picture that does not fade towards what hides the surface.
    """

    camera: Cameras
    rgb: npt.NDArray[np.float32]
    depth_inside_px: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.float32]


def bake(
    mesh: UnwrappedMesh, views: Views, picture: UInt8[np.ndarray, "height width 4"] | None, config: ExportConfig
) -> TexturedMesh:
    """The mesh with its texture.

    Each texel is coloured by the views that see it, weighted by angle; where the picture sees it at a fair angle, by the
    picture. Colour spreads over the surface to texels that none sees, and continues past the charts.

    Args:
        views: View 0 is the front; sRGB over white.
        picture: What the front camera sees, straight alpha, at a resolution of its own; without it all views count alike.
    """
    texels = _rasterise(mesh, config.texture_px)
    scene = ray_scene(mesh.vertices, mesh.faces)
    blended = range(0 if picture is None else 1, len(views))
    colours, weights = _blend_views(texels, scene, views, blended, config)
    certainty = _smooth_step(weights / SURE)
    if picture is not None:
        colours, share = _with_picture(
            mesh, texels, scene, (colours, weights), views.cameras[[0]], picture=picture, config=config
        )
        certainty = np.maximum(certainty, share)
    filled = _fill_holes(mesh, texels, colours, certainty)
    return TexturedMesh(mesh=mesh, texture=_padded(texels.places, filled, config.texture_px, config.padding_px))


def _with_picture(
    mesh: UnwrappedMesh,
    texels: _Texels,
    scene: Any,
    blend: tuple[Floats, Floats],
    camera: Cameras,
    *,
    picture: UInt8[np.ndarray, "height width 4"],
    config: ExportConfig,
) -> tuple[Floats, Floats]:
    """Colours with the picture's where it sees them at a fair angle, and its share [texel] in each."""
    generated, weights = blend
    # The person's own picture does not fade: it is the truth wherever it sees the surface.
    front = _picture(
        None,
        camera.resized(picture.shape[1], picture.shape[0]),
        picture[..., :3].astype(np.float32) / 255,
        picture[..., 3].astype(np.float32) / 255,
        coverage=0.5,
    )
    seen, cosine, inside = _see(texels, scene, front)
    low, high = config.front_cosines
    overlap = np.where((cosine > high) & (inside > 1), weights, 0.0)
    share = _smooth_step((cosine - low) / (high - low)) * (inside > 0)
    colours = generated
    if config.compensate:
        colours = compensated(generated, seen, overlap)
        # What is left of the difference is shared out along the border, and forgotten further on.
        belief = share * (share > 0.5) * (weights > SURE)
        if belief.any():
            left = _spread_over(mesh, texels, seen - colours, belief, FORGETTING, np.zeros(3))
            colours = np.clip(colours + left, 0, 1)
    return share[:, None] * seen + (1 - share[:, None]) * colours, share


def _rasterise(mesh: UnwrappedMesh, texture_px: int) -> _Texels:
    """The texels whose centres lie in a chart: rays that fall on the atlas find their face and place in it."""
    flat = np.concatenate([mesh.uv, np.zeros((len(mesh.uv), 1))], axis=1)
    centres = (np.arange(texture_px) + 0.5) / texture_px
    u, v = np.meshgrid(centres, centres)
    down = np.stack([u, v, np.ones_like(u), np.zeros_like(u), np.zeros_like(u), -np.ones_like(u)], axis=-1)
    hits = ray_scene(flat, mesh.faces).cast_rays(tensor(down.reshape(-1, 6).astype(np.float32)))
    places = np.flatnonzero(np.isfinite(hits["t_hit"].numpy()))
    corners = mesh.faces[hits["primitive_ids"].numpy()[places].astype(np.int64)]
    shares = hits["primitive_uvs"].numpy()[places].astype(np.float64)
    points, normals = np.split(interpolate(np.concatenate([mesh.vertices, mesh.normals], axis=1), corners, shares), 2, axis=1)
    lengths = np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return _Texels(places=places, corners=corners, shares=shares, points=points, normals=normals / lengths)


def _blend_views(
    texels: _Texels, scene: Any, views: Views, indices: Iterable[int], config: ExportConfig
) -> tuple[Floats, Floats]:
    """Mean colour [texel, 3] of those of these views that see each texel, and their weights' sum, 0 where none does."""

    def weighted(index: int) -> tuple[Floats, Floats]:
        """How much one view counts at each texel, and that times its colour."""
        alpha = views.alpha[index].numpy()
        over_white = views.rgb[index].movedim(0, -1).numpy()
        straight = np.clip((over_white - (1 - alpha[..., None])) / np.maximum(alpha[..., None], OPAQUE), 0, 1)
        if config.light:
            straight /= config.light.strength(views.normals[index].movedim(0, -1).numpy())[..., None]
        # Generated outlines are soft: the paper shines through wherever they are not opaque.
        view = _picture(scene, views.cameras[[index]], straight, alpha, coverage=OPAQUE)
        seen, cosine, inside = _see(texels, scene, view)
        weight = cosine**config.angle_power * _smooth_step(inside / max(config.mask_erosion_px, 1e-6))
        return weight, weight[:, None] * seen

    total, colours = np.zeros(len(texels.points)), np.zeros((len(texels.points), 3))
    with ThreadPoolExecutor(THREADS) as pool:
        for weight, colour in pool.map(weighted, indices):
            total += weight
            colours += colour
    return colours / np.maximum(total, 1e-12)[:, None], np.where(total > 1e-6, total, 0.0)


def compensated(generated: Floats, seen: Floats, overlap: Floats) -> Floats:
    """Generated colours with the gain and offset of each channel that bring them closest to the picture where both look.

    Args:
        generated: [texel, 3].
        seen: [texel, 3], what the picture shows.
        overlap: [texel] weight of the texel in the comparison; 0 where not both see it.

    Source: after Brown and Lowe, Automatic panoramic image stitching, 2007, section 6.
    """
    if overlap.sum() < SMALLEST_OVERLAP:
        return generated
    mean_generated, mean_seen = (np.average(values, axis=0, weights=overlap) for values in (generated, seen))
    offsets = generated - mean_generated
    covariance = np.average(offsets * (seen - mean_seen), axis=0, weights=overlap)
    variance = np.average(offsets**2, axis=0, weights=overlap)
    # Flat colours say nothing of a gain: it stays near 1.
    gain = np.clip((covariance + GAIN_PRIOR) / (variance + GAIN_PRIOR), 0.5, 2.0)
    return np.clip(mean_seen + gain * offsets, 0, 1)


def _picture(
    scene: Any,
    camera: Cameras,
    straight: Float[np.ndarray, "height width 3"],
    alpha: Float[np.ndarray, "height width"],
    *,
    coverage: float,
) -> _Picture:
    """The posed picture whose silhouette is where it covers more than this of a pixel; without a scene it never fades."""
    opaque = alpha > OPAQUE
    if not opaque.any():
        opaque = alpha >= alpha.max()
    nearest = distance_transform_edt(~opaque, return_distances=False, return_indices=True)
    inside = distance_transform_edt(np.pad(alpha > coverage, 1))[1:-1, 1:-1]
    return _Picture(
        camera=camera,
        rgb=straight[tuple(nearest)],
        depth_inside_px=inside[..., None].astype(np.float32),
        nearest=np.zeros((0, 1, 1), dtype=np.float32) if scene is None else _nearest(scene, camera),
    )


def _nearest(scene: Any, camera: Cameras) -> npt.NDArray[np.float32]:
    origins, directions = rays(camera)
    hits = scene.cast_rays(tensor(torch.cat([origins[0], directions[0]], dim=-1).float().numpy()))["t_hit"].numpy()
    pose = camera.world_from_camera[0]
    depth = ((origins[0] - pose[:3, 3]) @ pose[:3, 2]).numpy() + hits * (directions[0] @ pose[:3, 2]).numpy()
    step_px = max(1, round(camera.width_px * FADE_SHARE / _FADE_STEPS))
    return np.stack([minimum_filter(depth, 2 * step_px * ring + 1) for ring in range(1, _FADE_STEPS + 1)]).astype(np.float32)


def _open_sight(cosine: Floats, pixels: Floats, z: Floats, picture: _Picture) -> Floats:
    """1 far from everything that hides a neighbouring part of the surface from the view, falling to 0 beside it."""
    camera = picture.camera
    x, y = (
        np.clip(pixels[:, axis].astype(np.int64), 0, side - 1) for axis, side in enumerate((camera.width_px, camera.height_px))
    )
    step = FADE_SHARE / _FADE_STEPS * camera.width_px / float(camera.focal_px[0])
    steps = step * (z if camera.projection == "perspective" else np.ones_like(z))
    # A slanted surface is itself nearer beside a point, the more the flatter it is seen.
    slope = np.sqrt(1 - np.clip(cosine, 0, 1) ** 2) / np.maximum(cosine, SMALLEST_COSINE)
    rings = np.arange(1, _FADE_STEPS + 1)[:, None]
    hidden = z - picture.nearest[:, y, x] > STEP + 2 * rings * steps * slope
    return _smooth_step(np.where(hidden.any(axis=0), hidden.argmax(axis=0), _FADE_STEPS) / _FADE_STEPS)


def _see(texels: _Texels, scene: Any, picture: _Picture) -> tuple[Floats, Floats, Floats]:
    """What a picture shows of each texel: colour [texel, 3], cosine of the angle of sight, pixels inside; all 0 if hidden.

    The cosine of a view that fades does so towards what hides the surface, so that the view does not end at a sharp line.
    """
    camera = picture.camera
    towards = _towards(camera, texels.points)
    cosines = np.einsum("ij,ij->i", texels.normals, towards)
    facing = np.flatnonzero(cosines > SMALLEST_COSINE)
    starts = texels.points[facing] + LIFT * texels.normals[facing]
    bundle = np.concatenate([starts, towards[facing]], axis=1).astype(np.float32)
    seen = facing[~scene.test_occlusions(tensor(bundle)).numpy()]
    projected, depths = project(camera, torch.from_numpy(texels.points[seen]).float()[None])
    pixels, z = projected[0].numpy().astype(np.float64), depths[0].numpy().astype(np.float64)
    uv = pixels / [camera.width_px, camera.height_px]
    framed = ((uv >= 0) & (uv <= 1)).all(axis=1)
    sight = _open_sight(cosines[seen], pixels, z, picture) if len(picture.nearest) else 1.0
    count = len(cosines)
    colour, cosine, inside = np.zeros((count, 3)), np.zeros(count), np.zeros(count)
    colour[seen] = bilinear(picture.rgb, uv)
    cosine[seen] = np.where(framed, cosines[seen] * sight, 0.0)
    inside[seen] = bilinear(picture.depth_inside_px, uv)[:, 0]
    return colour, cosine, inside


def _towards(camera: Cameras, points: Floats) -> Floats:
    """Unit directions [point, 3] from points to the camera."""
    pose = camera.world_from_camera[0].numpy().astype(np.float64)
    if camera.projection == "orthographic":
        return np.broadcast_to(-pose[:3, 2], points.shape)
    offsets = pose[:3, 3] - points
    directions: Floats = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    return directions


def _smooth_step(x: Floats) -> Floats:
    clipped = np.clip(x, 0.0, 1.0)
    return clipped * clipped * (3 - 2 * clipped)


def _fill_holes(mesh: UnwrappedMesh, texels: _Texels, colours: Floats, certainty: Floats) -> Floats:
    """Colours mixed, where they are uncertain, with those spread over the surface from certain ones around, as heat would.

    Args:
        certainty: [texel] from 0, nobody sees it, to 1.
    """
    if (certainty >= 1).all() or not (certainty > 0).any():
        return np.where(certainty[:, None] > 0, colours, 0.5)
    believed = certainty * (certainty >= min(0.5, certainty.max()))
    filled = _spread_over(mesh, texels, colours, believed, PULL, colours[believed > 0].mean(axis=0))
    mixed: Floats = certainty[:, None] * colours + (1 - certainty[:, None]) * filled
    return mixed


def _spread_over(mesh: UnwrappedMesh, texels: _Texels, values: Floats, belief: Floats, pull: float, rest: Floats) -> Floats:
    """Smooth values [texel, channel] that are those of the believed texels where there are any.

    Args:
        belief: [texel], 0 for what is not to be looked at.
        pull: Towards `rest`, against one neighbour: how soon values that nothing is known of come to it.
        rest: [channel].
    """
    _, vertex = coincident(mesh.vertices)
    corners = vertex[texels.corners]
    shares = np.stack([1 - texels.shares.sum(axis=1), *texels.shares.T], axis=1)
    believed = shares * belief[:, None]
    sums = [_sums(corners, believed * channel) for channel in (1.0, *values.T[..., None])]
    weights, *channels = (np.pad(total, (0, int(vertex.max()) + 1 - len(total))) for total in sums)
    sources = np.stack(channels, axis=1) / np.maximum(weights, 1e-12)[:, None]
    known = weights > min(SMALLEST_SHARE, float(weights.max()) / 2)
    result: Floats = np.einsum("pc,pck->pk", shares, _harmonic(vertex[mesh.faces], sources, known, pull, rest)[corners])
    return result


def source_of_vertices(
    mesh: UnwrappedMesh, views: Views, picture: UInt8[np.ndarray, "height width 4"], config: ExportConfig
) -> npt.NDArray[np.int64]:
    """The view that colours each vertex most: 0 is the picture, -1 nobody."""
    count = len(mesh.vertices)
    points = _Texels(
        places=np.zeros(0, dtype=np.int64),
        corners=np.zeros((count, 3), dtype=np.int64),
        shares=np.zeros((count, 2)),
        points=mesh.vertices,
        normals=mesh.normals,
    )
    scene = ray_scene(mesh.vertices, mesh.faces)
    weights = np.stack([_blend_views(points, scene, views, [index], config)[1] for index in range(1, len(views))], axis=1)
    nothing = (np.zeros((count, 3)), np.zeros(count))
    share = _with_picture(mesh, points, scene, nothing, views.cameras[[0]], picture=picture, config=config)[1]
    return np.where(share > 0.5, 0, np.where(weights.max(axis=1) > SURE, weights.argmax(axis=1) + 1, -1))


def _sums(corners: npt.NDArray[np.int64], values: Floats) -> Floats:
    return np.bincount(corners.reshape(-1), values.reshape(-1)).astype(np.float64)


def _harmonic(faces: npt.NDArray[np.int64], values: Floats, known: npt.NDArray[np.bool_], pull: float, rest: Floats) -> Floats:
    """Values [vertex, channel] in which each unknown one is the mean of its neighbours, and a little of `rest`."""
    if known.all():
        return values
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = len(values)
    adjacency = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()
    # The pull also settles components of which nothing is known.
    system = (diags_array(adjacency.sum(axis=1) + pull) - adjacency).tocsr()[~known]
    target = pull * rest - system[:, known] @ values[known]
    result = values.copy()
    result[~known] = splu(system[:, ~known].tocsc()).solve(target)
    return result


def _padded(places: npt.NDArray[np.int64], colours: Floats, texture_px: int, padding_px: int) -> npt.NDArray[np.uint8]:
    """The texture: colours at their places, continued for `padding_px`, and their mean beyond."""
    texture = np.zeros((texture_px * texture_px, 3), dtype=np.uint8)
    texture[places] = np.round(np.clip(colours, 0, 1) * 255)
    empty = np.ones(texture_px * texture_px, dtype=bool)
    empty[places] = False
    square = (texture_px, texture_px)
    distances, nearest = distance_transform_edt(empty.reshape(square), return_indices=True)
    spread: npt.NDArray[np.uint8] = texture.reshape(*square, 3)[tuple(nearest)]
    spread[distances > padding_px] = texture[places].mean(axis=0).round().astype(np.uint8)
    return spread
