"""Textured objects as posed views: colour, normals, z-depth and coverage, cast by open3d on the CPU."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from img2mesh.data.objects import Floats, Ints, ObjectEntry, Texels, TexturedObject, list_objects, load_object
from img2mesh.errors import InputError
from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG, VIEW_NAMES, Cameras, orbit, rays, upright_from_front
from img2mesh.geometry.light import DEFAULT_LIGHT, Light

if TYPE_CHECKING:
    import open3d

# The front silhouette's longest side: three quarters of the frame, whose sides are 2 scene units.
FRONT_SIDE = 1.5
# No side view may leave this half extent of the frame.
FRAME_LIMIT = 0.97
# Layers of cut-out texture that one ray may pass.
MASK_LAYERS = 8
# How far behind a hole a ray starts again, scene units.
_RESTART = 1e-4
# Sixteen bits then reach four scene units, beyond every depth in the scene cube.
DEPTH_STEPS = 16383
# A raised front is seen from up to this far above.
MOST_RAISED_DEG = 40.0
# The light of a random front leaves the default one by at most this angle.
LIGHT_CONE_DEG = 35.0

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class RenderedViews:
    """Pictures of one object through one set of cameras.

    Attributes:
        rgba: uint8 [view, height, width, 4], sRGB, straight alpha; alpha is the share of covered samples.
        normals: float32 [view, height, width, 3], unit, world frame, towards the camera; zero in the background.
        depth: float32 [view, height, width], z-depth of the nearest covered sample, scene units; zero in the background.
        mask: bool [view, height, width], true where any sample is covered.
    """

    cameras: Cameras
    rgba: Texels
    normals: Floats
    depth: Floats
    mask: Bools


@dataclass(frozen=True, kw_only=True)
class _Atlas:
    """All textures of an object in one table of texels."""

    texels: Texels
    offset: Ints
    width: Ints
    height: Ints
    flat: bool
    masked: bool


@dataclass(frozen=True, kw_only=True)
class _Hits:
    """Rays that met the surface: their places in the flat sample grid and what they saw."""

    sample: npt.NDArray[np.int64]
    depth: Floats
    rgb: Floats
    normals: Floats


def render_views(obj: TexturedObject, cameras: Cameras, *, light: Light = DEFAULT_LIGHT, supersample: int = 2) -> RenderedViews:
    """The object as the cameras see it.

    Each pixel is cut into `supersample` squared samples. Coverage is their share that meets the object; colours and normals
    are averaged over those only, and depth is that of the nearest, so that nothing is mixed with the background.

    Args:
        obj: Already in scene units, for example from `place`.
        light: Fixed in the world, so the views agree about the shading.
        supersample: Samples along each side of a pixel, 1 or more.
    """
    fine = cameras.resized(cameras.width_px * supersample, cameras.height_px * supersample)
    sample, origins, directions = _rays_near(obj.vertices, fine)
    hits = _cast(obj, sample, origins, directions, light)
    count, height, width = len(cameras), cameras.height_px, cameras.width_px
    pixel = _pixel_of_sample(hits.sample, width, height, supersample)
    pixels = count * height * width
    covered = np.bincount(pixel, minlength=pixels)
    some = covered > 0
    share = np.maximum(covered, 1)
    rgba = np.zeros((pixels, 4), dtype=np.uint8)
    rgba[:, :3] = np.round(_sums(pixel, hits.rgb, pixels) / share[:, None])
    rgba[:, 3] = np.round(covered * (255.0 / supersample**2))
    depth = np.full(pixels, np.inf, dtype=np.float32)
    np.minimum.at(depth, pixel, hits.depth)
    return RenderedViews(
        cameras=cameras,
        rgba=rgba.reshape(count, height, width, 4),
        normals=_unit(_sums(pixel, hits.normals, pixels)).astype(np.float32).reshape(count, height, width, 3),
        depth=np.where(some, depth, np.float32(0)).reshape(count, height, width),
        mask=some.reshape(count, height, width),
    )


def _sums(pixel: npt.NDArray[np.int64], values: Floats, pixels: int) -> npt.NDArray[np.float64]:
    columns = [np.bincount(pixel, weights=values[:, i], minlength=pixels) for i in range(values.shape[1])]
    return np.stack(columns, axis=-1)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), 0.0)


def _pixel_of_sample(sample: npt.NDArray[np.int64], width: int, height: int, supersample: int) -> npt.NDArray[np.int64]:
    row, column = np.divmod(sample, width * supersample)
    # Rows of all views follow one another, so one division serves view and row together.
    pixel: npt.NDArray[np.int64] = (row // supersample) * width + column // supersample
    return pixel


def _rays_near(vertices: Floats, cameras: Cameras) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Rays inside each view's bounding box of the object: the others can meet nothing.

    Returns:
        Flat index in [view, height, width], origins and directions, one a ray.
    """
    origins, directions = (r.numpy() for r in rays(cameras))
    index = np.arange(len(cameras) * cameras.height_px * cameras.width_px).reshape(origins.shape[:-1])
    boxes = [_box(vertices, cameras, view) for view in range(len(cameras))]
    pick = [(view, slice(y0, y1), slice(x0, x1)) for view, (x0, y0, x1, y1) in enumerate(boxes)]
    return (
        np.concatenate([index[p].reshape(-1) for p in pick]),
        np.concatenate([origins[p].reshape(-1, 3) for p in pick]),
        np.concatenate([directions[p].reshape(-1, 3) for p in pick]),
    )


def _box(vertices: Floats, cameras: Cameras, view: int) -> tuple[int, int, int, int]:
    """Pixel box (x0, y0, x1, y1) of the projected vertices, the whole image when some are not in front of the camera."""
    pose = cameras.world_from_camera[view].numpy()
    local = (vertices - pose[:3, 3]) @ pose[:3, :3]
    if cameras.projection == "perspective":
        if local[:, 2].min() <= 1e-6:
            return 0, 0, cameras.width_px, cameras.height_px
        local = local / local[:, 2:]
    pixels = local[:, :2] * cameras.focal_px[view].item() + cameras.centre_px[view].numpy()
    size = np.array([cameras.width_px, cameras.height_px])
    low = np.clip(np.floor(pixels.min(axis=0)) - 1, 0, size).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 1, low, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _cast(obj: TexturedObject, sample: npt.NDArray[np.int64], origins: Floats, directions: Floats, light: Light) -> _Hits:
    """First opaque hits of all rays; a ray that meets a hole in a texture goes on behind it."""
    scene, atlas, face_normals = _scene(obj), _atlas(obj.textures), _face_normals(obj)
    travelled = np.zeros(len(sample), dtype=np.float32)
    found: list[_Hits] = []
    for _ in range(MASK_LAYERS if atlas.masked else 1):
        hit, face, barycentric, distance = _first_hits(scene, origins + travelled[:, None] * directions, directions)
        sample, origins, directions, travelled = sample[hit], origins[hit], directions[hit], travelled[hit] + distance
        rgb, opaque = _look_up(obj, atlas, face, barycentric)
        keep = opaque if atlas.masked else slice(None)
        normals = face_normals[face[keep]]
        normals = np.where((normals * directions[keep]).sum(axis=1, keepdims=True) > 0, -normals, normals)
        lit = np.minimum(rgb[keep] * light.strength(normals)[:, None], np.float32(255))
        found.append(_Hits(sample=sample[keep], depth=travelled[keep], rgb=lit, normals=normals))
        if not atlas.masked or opaque.all():
            break
        on = ~opaque
        sample, origins, directions, travelled = sample[on], origins[on], directions[on], travelled[on] + _RESTART
    return _Hits(
        sample=np.concatenate([f.sample for f in found]),
        depth=np.concatenate([f.depth for f in found]),
        rgb=np.concatenate([f.rgb for f in found]),
        normals=np.concatenate([f.normals for f in found]),
    )


def _scene(obj: TexturedObject) -> "open3d.t.geometry.RaycastingScene":
    import open3d

    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(_tensor(obj.vertices), _tensor(obj.faces.astype(np.uint32)))
    return scene


def _tensor(array: npt.NDArray[Any]) -> "open3d.core.Tensor":
    import open3d

    return open3d.core.Tensor.from_numpy(np.ascontiguousarray(array))


def _first_hits(
    scene: "open3d.t.geometry.RaycastingScene", origins: Floats, directions: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats]:
    """Indices of the rays that hit, with face, barycentric coordinates and distance in units of the direction."""
    answer = scene.cast_rays(_tensor(np.concatenate([origins, directions], axis=1).astype(np.float32)), nthreads=1)
    distance = answer["t_hit"].numpy()
    hit = np.flatnonzero(np.isfinite(distance))
    return hit, answer["primitive_ids"].numpy()[hit].astype(np.int64), answer["primitive_uvs"].numpy()[hit], distance[hit]


def _face_normals(obj: TexturedObject) -> Floats:
    a, b, c = (obj.vertices[obj.faces[:, i]].astype(np.float64) for i in range(3))
    return np.asarray(_unit(np.cross(b - a, c - a)), dtype=np.float32)


def _atlas(textures: Sequence[Texels]) -> _Atlas:
    heights, widths = np.array([t.shape[:2] for t in textures], dtype=np.int32).T
    ends = np.cumsum(heights * widths)
    return _Atlas(
        texels=np.concatenate([t.reshape(-1, 4) for t in textures]),
        offset=(ends - heights * widths).astype(np.int32),
        width=widths,
        height=heights,
        flat=bool((heights * widths == 1).all()),
        masked=any(bool((t[..., 3] == 0).any()) for t in textures),
    )


def _look_up(obj: TexturedObject, atlas: _Atlas, face: npt.NDArray[np.int64], barycentric: Floats) -> tuple[Floats, Bools]:
    """Bilinear base colours (0..255) and whether the nearest texel is there at all."""
    material = obj.material[face]
    offset = atlas.offset[material]
    if atlas.flat:
        texels = atlas.texels[offset]
        return texels[:, :3].astype(np.float32), texels[:, 3] > 0
    u, v = barycentric[:, :1], barycentric[:, 1:]
    corner = obj.uv[face]
    uv = corner[:, 0] * (1 - u - v) + corner[:, 1] * u + corner[:, 2] * v
    width, height = atlas.width[material], atlas.height[material]
    x, y = uv[:, 0] * width, uv[:, 1] * height
    nearest = offset + (np.floor(y).astype(np.int32) % height) * width + np.floor(x).astype(np.int32) % width
    return _bilinear(atlas, material, x - 0.5, y - 0.5), atlas.texels[nearest, 3] > 0


def _bilinear(atlas: _Atlas, material: Ints, x: Floats, y: Floats) -> Floats:
    """Weighted mean of four neighbours with repeat; holes have no colour, so they get no weight."""
    offset, width, height = atlas.offset[material], atlas.width[material], atlas.height[material]
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    left, top = x0.astype(np.int32) % width, y0.astype(np.int32) % height
    right, bottom = np.where(left + 1 == width, 0, left + 1), np.where(top + 1 == height, 0, top + 1)
    total = np.zeros((len(x), 4), dtype=np.float32)
    rows = ((offset + top * width, 1 - fy), (offset + bottom * width, fy))
    for row, row_weight in rows:
        for column, column_weight in ((left, 1 - fx), (right, fx)):
            texels = atlas.texels[row + column].astype(np.float32)
            weight = row_weight * column_weight
            if atlas.masked:
                weight = weight * (texels[:, 3] > 0)
            texels[:, 3] = 1
            total += weight[:, None] * texels
    return np.asarray(total[:, :3] / np.maximum(total[:, 3:], 1e-6), dtype=np.float32)


def place(obj: TexturedObject, front_azimuth_deg: float = 0.0, front_elevation_deg: float = 0.0) -> TexturedObject:
    """The object as scenes are built: turned, centred and scaled by what the front camera sees.

    The camera at these angles about the object becomes the front (+z), so an object that is seen from above leans towards it.
    The front silhouette's box is centred in x and y, the bounding box in z. The longest side of the silhouette is 1.5 scene
    units, or less where the object would otherwise leave the frame at some azimuth about the front's upward direction.

    Args:
        front_azimuth_deg: From +z (0) towards +x (90).
        front_elevation_deg: From the horizon (0) towards +y (90).

    Raises:
        InputError: The object has no extent.
    """
    angle = math.radians(front_azimuth_deg)
    sin_a, cos_a = math.sin(angle), math.cos(angle)
    facing = np.array([[cos_a, 0, sin_a], [0, 1, 0], [-sin_a, 0, cos_a]])
    turned = obj.vertices.astype(np.float64) @ facing @ upright_from_front(front_elevation_deg)
    used = turned[np.unique(obj.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    centre = (low + high) / 2
    side = float((high - low)[:2].max())
    radius = float(np.linalg.norm((used - centre)[:, [0, 2]], axis=1).max())
    if not np.isfinite(side) or max(side, radius) <= 0:
        raise InputError("the object has no extent; give a mesh with a surface")
    reach = max(radius, float(high[1] - low[1]) / 2)
    scale = min(FRONT_SIDE / side if side > 0 else math.inf, FRAME_LIMIT / reach)
    return obj.with_vertices(((turned - centre) * scale).astype(np.float32))


def front_azimuths(entry: ObjectEntry, *, fronts: int, seed: int) -> tuple[float, ...]:
    """Azimuths from which an object is shown as if from the front, the same whatever else is rendered.

    One front is the object's own. More begin with it where the source has a front at all, and go on at random.

    Args:
        fronts: How many, 1 or more.
    """
    if fronts == 1:
        return (0.0,)
    random = _random(entry, seed, "front")
    drawn = tuple(float(a) for a in random.uniform(0.0, 360.0, size=fronts))
    return (0.0, *drawn[1:]) if _has_front(entry) else drawn


def raised_fronts(entry: ObjectEntry, *, raised: int, seed: int) -> tuple[tuple[float, float], ...]:
    """Azimuths and elevations of fronts seen from above, as people mostly take pictures of what stands on a floor or table."""
    random = _random(entry, seed, "raised")
    angles = random.uniform(0.0, 1.0, size=(raised, 2)) * (360.0, MOST_RAISED_DEG)
    return tuple((azimuth, elevation) for azimuth, elevation in angles.tolist())


def _has_front(entry: ObjectEntry) -> bool:
    """Furniture, people and animals face +z; scenery does not."""
    return not entry.source.startswith("0ad") or bool({"units", "fauna"} & set(entry.id.split("/")))


def front_light(entry: ObjectEntry, front: int, *, fronts: int, seed: int) -> Light:
    """The light of one front: the default one when there is only one, else random within a cone about it."""
    if fronts == 1:
        return DEFAULT_LIGHT
    random = _random(entry, seed, f"light {front}")
    axis = _unit(np.array(DEFAULT_LIGHT.direction))
    across = _unit(np.cross(axis, [0.0, 1.0, 0.0]))
    up = np.cross(across, axis)
    # The square root makes the draw uniform over the cap's area (to first order in the angle).
    angle = math.radians(LIGHT_CONE_DEG) * math.sqrt(random.uniform())
    turn = random.uniform(0.0, 2 * math.pi)
    direction = math.cos(angle) * axis + math.sin(angle) * (math.cos(turn) * across + math.sin(turn) * up)
    ambient = float(random.uniform(0.5, 0.75))
    return Light(ambient=ambient, diffuse=1.0 - ambient, direction=(direction[0], direction[1], direction[2]))


def _random(entry: ObjectEntry, seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(json.dumps([entry.id, seed, purpose]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def safe_name(object_id: str) -> str:
    """A file name for an object's id: slashes become `__`, anything else outside letters, digits, `._-` becomes `-`."""
    plain = object_id.replace("/", "__")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in plain)
    if name != plain:
        name += "-" + hashlib.sha256(object_id.encode()).hexdigest()[:8]
    return name.lstrip(".-") or "object"


def camera_rows(cameras: Cameras, names: Sequence[str] = VIEW_NAMES) -> list[dict[str, Any]]:
    """The cameras as plain values, field by field what a manifest's `CameraSpec` holds."""
    return [
        {
            "name": name,
            "projection": cameras.projection,
            "world_from_camera": cameras.world_from_camera[i].tolist(),
            "focal_px": cameras.focal_px[i].item(),
            "centre_px": cameras.centre_px[i].tolist(),
            "width_px": cameras.width_px,
            "height_px": cameras.height_px,
        }
        for i, name in enumerate(names)
    ]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything a worker process needs besides the object."""

    out: Path
    size_px: int
    fronts: int
    raised: int
    seed: int
    png: bool

    def directions(self, entry: ObjectEntry) -> list[tuple[float, float]]:
        """Azimuth and elevation of every front."""
        level = front_azimuths(entry, fronts=self.fronts, seed=self.seed)
        return [*((azimuth, 0.0) for azimuth in level), *raised_fronts(entry, raised=self.raised, seed=self.seed)]


def render_dataset(
    objects: Path,
    out: Path,
    *,
    split: str | None = None,
    source: str | None = None,
    size_px: int = 128,
    fronts: int = 1,
    raised: int = 0,
    seed: int = 0,
    processes: int = 1,
    limit: int | None = None,
    png: bool = False,
) -> int:
    """Six views of every object from every front, one safetensors file an object; files already there are kept.

    Each `<out>/<split>/<name>.safetensors` holds "rgba" uint8 [front, view, height, width, 4] (straight alpha), "normal" uint8
    [front, view, height, width, 3] (round((n + 1) * 127.5), the zero vector is 128), "depth" float16 [front, view, height,
    width] (z-depth, 0 in the background), "front_azimuth_deg" and "front_elevation_deg" float32 [front]. `<out>/cameras.json`
    has the six cameras, `<out>/index.jsonl` one line per rendered object. A file is written whole or not at all, so a killed
    run is simply repeated.

    Args:
        objects: A folder with `index.jsonl`, or with `.glb` files.
        split: Only this split.
        source: Only sources whose name starts with this.
        fronts: Level fronts per object, see `front_azimuths`.
        raised: Fronts seen from above that follow them, see `raised_fronts`.
        seed: Decides the random fronts and lights of each object, and the order in which objects are rendered.
        limit: Render at most this many of the shuffled objects.
        png: Also write every view as PNG files for people, see `write_pngs`; only for objects rendered now.

    Returns:
        How many of the chosen objects have a file now.

    Raises:
        InputError: No objects, or another size or camera set in `out` already.
    """
    entries = list_objects(objects, split=split, source=source)
    order = np.random.default_rng(seed).permutation(len(entries))[:limit]
    chosen = [entries[i] for i in order]
    job = _Job(out=out, size_px=size_px, fronts=fronts, raised=raised, seed=seed, png=png)
    _write_cameras(job)
    waiting = [e for e in chosen if not _target(job, e).exists()]
    started = time.monotonic()
    for done, (entry, reason) in enumerate(_render_all(waiting, job, processes), start=1):
        if reason:
            print(f"refused {entry.id}: {reason}", flush=True)
        if done % 20 == 0 or done == len(waiting):
            rate = (time.monotonic() - started) / done
            left = rate * (len(waiting) - done)
            print(f"rendered {done}/{len(waiting)} objects, {rate:.2f} s each, {left / 60:.1f} min left", flush=True)
        if done % 200 == 0:
            _write_index(job, chosen)
    return _write_index(job, chosen)


def _target(job: _Job, entry: ObjectEntry) -> Path:
    return job.out / entry.split / f"{safe_name(entry.id)}.safetensors"


def _render_all(entries: Sequence[ObjectEntry], job: _Job, processes: int) -> Iterator[tuple[ObjectEntry, str]]:
    """Each entry with the reason why it was refused, or an empty string."""
    if processes <= 1:
        yield from ((entry, _render_entry(entry, job)) for entry in entries)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # A forked child would inherit torch's and open3d's thread pools in an undefined state.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_render_entry, entry, job): entry for entry in entries}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _render_entry(entry: ObjectEntry, job: _Job) -> str:
    """Render one object into its file.

    Returns:
        Why the object was refused, or an empty string.
    """
    import torch

    # Parallelism is by processes; torch's own threads would only fight with them.
    torch.set_num_threads(1)
    try:
        obj = load_object(entry.read())
        directions = job.directions(entry)
        cameras = orbit(size_px=job.size_px)
        lights = (front_light(entry, i, fronts=len(directions), seed=job.seed) for i in range(len(directions)))
        views = [
            render_views(place(obj, *direction), cameras, light=light)
            for direction, light in zip(directions, lights, strict=True)
        ]
    except InputError as error:
        return str(error)
    if not all(v.mask.any() for v in views):
        return "nothing of it is visible from some front"
    target = _target(job, entry)
    if job.png:
        for (azimuth, elevation), rendered in zip(directions, views, strict=True):
            above = f"_{elevation:04.1f}" if elevation else ""
            write_pngs(target.with_suffix("") / f"front_{azimuth:05.1f}{above}", rendered)
    _write_views(target, views, directions)
    return ""


def write_pngs(folder: Path, views: RenderedViews, names: Sequence[str] = VIEW_NAMES) -> None:
    """Each view as `<name>_rgba.png`, `<name>_normal.png` and `<name>_depth.png` (16 bits, `DEPTH_STEPS` to a scene unit).

    `cameras.json` beside them makes the folder one for `img2mesh reconstruct`.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(views.rgba[i]).save(folder / f"{name}_rgba.png")
        Image.fromarray(encode_normals(views.normals[i])).save(folder / f"{name}_normal.png")
        Image.fromarray(np.round(views.depth[i] * DEPTH_STEPS).astype(np.uint16)).save(folder / f"{name}_depth.png")
    rows = [
        {**row, "image": f"{row['name']}_rgba.png", "normals": f"{row['name']}_normal.png"}
        for row in camera_rows(views.cameras, names)
    ]
    write_whole(folder / "cameras.json", (json.dumps({"views": rows}, indent=1) + "\n").encode())


def encode_normals(normals: Floats) -> Texels:
    """Unit vectors as bytes, round((n + 1) * 127.5); the zero vector becomes 128."""
    return np.round((normals + 1.0) * 127.5).astype(np.uint8)


def _write_views(target: Path, views: Sequence[RenderedViews], directions: Sequence[tuple[float, float]]) -> None:
    from safetensors.numpy import save

    azimuths, elevations = np.array(directions, dtype=np.float32).T.copy()
    tensors: dict[str, npt.NDArray[Any]] = {
        "rgba": np.stack([v.rgba for v in views]),
        "normal": np.stack([encode_normals(v.normals) for v in views]),
        "depth": np.stack([v.depth for v in views]).astype(np.float16),
        "front_azimuth_deg": azimuths,
        "front_elevation_deg": elevations,
    }
    write_whole(target, save(tensors))


def write_whole(target: Path, data: bytes) -> None:
    """Write a file that appears under its name only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to their owner, and these are to be shared.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_cameras(job: _Job) -> None:
    text = json.dumps(camera_rows(orbit(VIEW_AZIMUTHS_DEG, size_px=job.size_px)), indent=1) + "\n"
    path = job.out / "cameras.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{job.out} already holds views of other cameras or of another size; choose another --out")
    write_whole(path, text.encode())


def _write_index(job: _Job, chosen: Sequence[ObjectEntry]) -> int:
    """Bring `index.jsonl` up to date: its earlier lines, and one for every chosen object that has a file.

    Returns:
        How many of the chosen objects have a file.
    """
    path = job.out / "index.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = {row["id"]: row for row in map(json.loads, lines)}
    finished = [e for e in chosen if _target(job, e).exists()]
    for entry in finished:
        file = _target(job, entry).relative_to(job.out).as_posix()
        known = {k: entry.row[k] for k in ("title", "author", "licence", "group") if k in entry.row}
        rows[entry.id] = {"id": entry.id, "split": entry.split, "source": entry.source, "file": file, **known}
    text = "".join(json.dumps(rows[key], ensure_ascii=False) + "\n" for key in sorted(rows))
    write_whole(path, text.encode())
    return len(finished)
