"""The one seam between manifests and bytes on one side, tensors on the other."""

import io
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from img2mesh.errors import ArtifactError
from img2mesh.geometry.cameras import VIEW_NAMES, Cameras
from img2mesh.geometry.views import Views
from img2mesh.manifests import Blob, CameraSpec, Matrix4
from img2mesh.storage import Store

SAFETENSORS = "application/x-safetensors"
PNG = "image/png"


def put_tensors(store: Store, tensors: dict[str, Tensor]) -> Blob:
    """Store named tensors as one safetensors blob."""
    return store.put_blob(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}), SAFETENSORS)


def get_tensors(store: Store, blob: Blob) -> dict[str, Tensor]:
    """Read what `put_tensors` wrote.

    Raises:
        ArtifactError: The blob is missing, corrupt or no safetensors file.
    """
    data = store.get_blob(blob)
    try:
        return load(data)
    except Exception as error:
        raise ArtifactError(f"blob {blob.sha256[:12]} is not a readable safetensors file: {error}") from error


def put_views(store: Store, views: Views) -> Blob:
    """Store "rgb", "alpha" and "outlines", if any, uint8 (times 255), and "normals" float16; cameras travel in the manifest."""
    quantised = {"rgb": views.rgb, "alpha": views.alpha}
    if views.outlines is not None:
        quantised["outlines"] = views.outlines
    tensors = {name: (tensor.clamp(0, 1) * 255).round().to(torch.uint8) for name, tensor in quantised.items()}
    return put_tensors(store, {**tensors, "normals": views.normals.to(torch.float16)})


def get_views(store: Store, blob: Blob, cameras: tuple[CameraSpec, ...]) -> Views:
    """Read what `put_views` wrote, with its cameras."""
    tensors = get_tensors(store, blob)
    return Views(
        cameras=cameras_from_specs(cameras),
        rgb=tensors["rgb"].float() / 255,
        alpha=tensors["alpha"].float() / 255,
        normals=tensors["normals"].float(),
        outlines=tensors["outlines"].float() / 255 if "outlines" in tensors else None,
    )


def put_rgba(store: Store, rgba: UInt8[np.ndarray, "height width 4"]) -> Blob:
    """Store a picture as PNG, straight alpha."""
    buffer = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG", compress_level=3)
    return store.put_blob(buffer.getvalue(), PNG)


def get_rgba(store: Store, blob: Blob) -> UInt8[np.ndarray, "height width 4"]:
    """Read a picture that `put_rgba` wrote."""
    with Image.open(io.BytesIO(store.get_blob(blob))) as image:
        return np.asarray(image.convert("RGBA"))


def get_picture(store: Store, blob: Blob) -> Float[Tensor, "4 height width"]:
    """Read a picture that `put_rgba` wrote, as values in [0, 1], straight alpha."""
    return torch.from_numpy(get_rgba(store, blob).copy()).movedim(-1, 0).float() / 255


def specs_from_cameras(cameras: Cameras, names: tuple[str, ...] = VIEW_NAMES) -> tuple[CameraSpec, ...]:
    """Cameras as the manifest writes them."""
    return tuple(
        CameraSpec(
            name=name,
            projection=cameras.projection,
            world_from_camera=cast("Matrix4", tuple(map(tuple, cameras.world_from_camera[index].tolist()))),
            focal_px=float(cameras.focal_px[index]),
            centre_px=(float(cameras.centre_px[index, 0]), float(cameras.centre_px[index, 1])),
            width_px=cameras.width_px,
            height_px=cameras.height_px,
        )
        for index, name in enumerate(names)
    )


def cameras_from_specs(specs: tuple[CameraSpec, ...]) -> Cameras:
    """The manifest's cameras as tensors.

    Raises:
        ArtifactError: The cameras differ in projection or image size.
    """
    first = specs[0]
    if any((s.projection, s.width_px, s.height_px) != (first.projection, first.width_px, first.height_px) for s in specs):
        raise ArtifactError("cameras of one manifest must share projection and image size")
    return Cameras(
        projection=first.projection,
        world_from_camera=torch.tensor([s.world_from_camera for s in specs]),
        focal_px=torch.tensor([s.focal_px for s in specs]),
        centre_px=torch.tensor([s.centre_px for s in specs]),
        width_px=first.width_px,
        height_px=first.height_px,
    )
