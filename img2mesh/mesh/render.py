"""Pictures of a textured mesh, cast by open3d on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.mesh.topology import Floats
from img2mesh.mesh.uv import TexturedMesh

SUPERSAMPLE = 2
# Views that are looked at side by side; each takes memory of its own, and arrays are worked on outside the interpreter's lock.
THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Renders:
    """Pictures through one set of cameras.

    Attributes:
        rgb: float32 [view, height, width, 3], sRGB in [0, 1], straight: averaged over covered samples only; 0 outside.
        alpha: float32 [view, height, width], share of covered samples.
        normals: float32 [view, height, width, 3], unit, world; zero outside.
    """

    rgb: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]


def ray_scene(vertices: Floats, faces: npt.NDArray[np.int64]) -> Any:
    """An open3d scene of these triangles."""
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(tensor(vertices.astype(np.float32)), tensor(faces.astype(np.uint32)))
    return scene


def tensor(values: npt.NDArray[Any]) -> Any:
    """The array as open3d's scenes take it."""
    import open3d

    core: Any = open3d.core
    return core.Tensor(np.ascontiguousarray(values))


def render(textured: TexturedMesh, cameras: Cameras, *, supersample: int = SUPERSAMPLE) -> Renders:
    """The mesh as the cameras see it, unlit: the texture's own colours.

    Args:
        supersample: Samples along each side of a pixel.
    """
    scene = ray_scene(textured.mesh.vertices, textured.mesh.faces)
    fine = cameras.resized(cameras.width_px * supersample, cameras.height_px * supersample)
    with ThreadPoolExecutor(THREADS) as pool:
        views = list(pool.map(lambda view: _render_view(textured, scene, fine[[view]], supersample), range(len(cameras))))
    rgb, alpha, normals = (np.stack(parts) for parts in zip(*views, strict=True))
    return Renders(rgb=rgb, alpha=alpha, normals=normals)


def _render_view(
    textured: TexturedMesh, scene: Any, camera: Cameras, supersample: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    origins, directions = rays(camera)
    bundle = np.concatenate([origins[0].numpy(), directions[0].numpy()], axis=-1).astype(np.float32)
    hits = scene.cast_rays(tensor(bundle))
    hit = np.isfinite(hits["t_hit"].numpy())
    faces, shares = hits["primitive_ids"].numpy()[hit].astype(np.int64), hits["primitive_uvs"].numpy()[hit].astype(np.float64)
    mesh = textured.mesh
    inside = interpolate(np.concatenate([mesh.uv, mesh.normals], axis=1), mesh.faces[faces], shares)
    colours = bilinear(textured.texture, inside[:, :2]) / 255
    samples = np.zeros((*hit.shape, 7), dtype=np.float32)
    samples[hit] = np.concatenate([colours, np.ones_like(colours[:, :1]), inside[:, 2:]], axis=1)
    means = _means(samples, supersample)
    alpha = means[..., 3]
    lengths = np.linalg.norm(means[..., 4:], axis=-1, keepdims=True)
    rgb = means[..., :3] / np.maximum(alpha, 1e-6)[..., None]
    return rgb.astype(np.float32, copy=False), alpha, means[..., 4:] / np.maximum(lengths, 1e-6)


def _means(samples: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Means of squares of samples; summed one by one, which is several times faster than a mean over two axes."""
    parts = [samples[row::side, column::side] for row in range(side) for column in range(side)]
    return np.asarray(sum(parts[1:], start=parts[0]) / np.float32(side**2))


def interpolate(values: Floats, corners: npt.NDArray[np.int64], shares: Floats) -> Floats:
    """Values of vertices inside triangles.

    Args:
        values: [vertex, channel].
        corners: [point, 3] vertices of each point's triangle.
        shares: [point, 2] barycentric coordinates of the second and the third corner.
    """
    u, v = shares[:, :1], shares[:, 1:]
    return (1 - u - v) * values[corners[:, 0]] + u * values[corners[:, 1]] + v * values[corners[:, 2]]


def bilinear(image: npt.NDArray[Any], uv: Floats) -> npt.NDArray[np.float32]:
    """The image's values between its texels, in its own units.

    Args:
        image: [height, width, channel].
        uv: [point, 2] in [0, 1], u to the right, v down; the first texel's centre is half a texel in.
    """
    height, width = image.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip(uv[:, 1] * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    # Rows are taken several times faster by one index than by two.
    texels = image.reshape(height * width, -1)
    upper = texels[top * width + left] * (1 - fx) + texels[top * width + right] * fx
    lower = texels[bottom * width + left] * (1 - fx) + texels[bottom * width + right] * fx
    result: npt.NDArray[np.float32] = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return result
