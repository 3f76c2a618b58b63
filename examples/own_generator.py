"""Another multi-view generator in place of the shipped one: `python examples/own_generator.py PICTURES...`.

A generator is a stage from a prepared picture to latents with cameras. This one knows nothing of the world: each view is the
picture itself, seen from behind mirrored and from the side narrowed. What matters is around it: its own parameters are in the
key of its results, its pictures become latents of the preset's autoencoder, and all other stages run as ever.
"""

import sys
from typing import Annotated

from pydantic import Field

from flows.reconstruct import stages_of, with_generator
from flows.submit import Request, submit
from img2mesh import presets
from img2mesh.manifests import Model, MultiviewLatents, PreparedImage, WeightsRef
from img2mesh.stage import Stage
from img2mesh.storage import Store


class Params(Model):
    """Everything that changes the bytes of the output."""

    autoencoder: WeightsRef
    view_size_px: int
    depth_share: Annotated[float, Field(gt=0, le=1)] = 0.6


def run(inputs: PreparedImage, params: Params, store: Store) -> MultiviewLatents:
    """Six views that follow from the front alone, as latents."""
    import torch
    from torch.nn import functional

    from img2mesh import codec
    from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG, orbit
    from img2mesh.models import autoencoder

    vae = autoencoder.load(params.autoencoder.name, params.autoencoder.sha256)
    front = autoencoder.resize_rgba(codec.get_picture(store, inputs.image), params.view_size_px)
    colours, normals = [], []
    for azimuth_deg in VIEW_AZIMUTHS_DEG:
        facing = torch.tensor(azimuth_deg).deg2rad().cos()
        width = max(facing.abs().item(), params.depth_share) * (1 if facing > -0.5 else -1)
        turn = torch.tensor([[[1 / width, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        grid = functional.affine_grid(turn, [1, 4, *front.shape[1:]], align_corners=False)
        seen = functional.grid_sample(front[None], grid, align_corners=False)[0]
        colours.append(autoencoder.over_white(seen))
        azimuth = torch.tensor(azimuth_deg).deg2rad()
        towards_camera = torch.stack([azimuth.sin(), torch.zeros(()), azimuth.cos()])
        normals.append(towards_camera[:, None, None] * (seen[3:] > 0.5))
    pictures = torch.stack(colours)
    packed = {
        "colour": autoencoder.pack_colour(pictures[:, :3], pictures[:, 3]),
        "normal": autoencoder.pack_normals(torch.stack(normals), pictures[:, 3]),
    }
    with torch.no_grad():
        latents = {name: vae.encode(views).latent_dist.mode().half() for name, views in packed.items()}
    return MultiviewLatents(
        source=inputs,
        latents=codec.put_tensors(store, latents),
        cameras=codec.specs_from_cameras(orbit(size_px=params.view_size_px)),
    )


STAGE = Stage(name="narrowing", version=1, inputs=PreparedImage, params=Params, outputs=MultiviewLatents, run=run)


def main(paths: list[str]) -> int:
    """Reconstruct the pictures with this generator."""
    preset = presets.compact()
    params = Params(autoencoder=preset.autoencoder, view_size_px=preset.view_size_px)
    request = Request.of(paths)
    pipeline = with_generator(stages_of(preset, seed=request.seed, formats=request.formats), STAGE, params)
    return submit(request, pipeline).exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
