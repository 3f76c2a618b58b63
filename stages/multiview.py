"""One prepared picture becomes six colour and six normal latents with their cameras."""

from typing import TYPE_CHECKING

from img2mesh.diffusion.config import SamplingConfig
from img2mesh.manifests import Model, MultiviewLatents, PreparedImage, WeightsRef
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main
from img2mesh.storage import Store

if TYPE_CHECKING:
    from torch import Tensor


class Params(Model):
    """Everything that changes the bytes of the output."""

    autoencoder: WeightsRef
    generator: WeightsRef
    sampling: SamplingConfig
    view_size_px: int
    seed: int = 0

    @classmethod
    def of(cls, preset: Preset, *, seed: int) -> "Params":
        """The preset's parameters with a seed."""
        return cls(
            autoencoder=preset.autoencoder,
            generator=preset.generator,
            sampling=preset.sampling,
            view_size_px=preset.view_size_px,
            seed=seed,
        )


def run(inputs: PreparedImage, params: Params, store: Store) -> MultiviewLatents:
    """Encode the picture, sample the other views around it, and keep the picture's own latent as the front."""
    import torch

    from img2mesh import codec
    from img2mesh.diffusion.conditioning import class_labels, published_labels
    from img2mesh.diffusion.sampling import sample
    from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG, orbit
    from img2mesh.models import autoencoder, multiview, placement

    vae = autoencoder.load(params.autoencoder.name, params.autoencoder.sha256)
    generator = multiview.load(params.generator.name, params.generator.sha256)
    front = autoencoder.over_white(autoencoder.resize_rgba(codec.get_picture(store, inputs.image), params.view_size_px))
    scale = vae.config["scaling_factor"]
    labels = published_labels() if generator.config.get("labels") == "published" else class_labels(VIEW_AZIMUTHS_DEG)

    def encode(pictures: "Tensor") -> "Tensor":
        latents: Tensor = torch.stack([autoencoder.encode_picture(vae, picture) for picture in pictures]) * scale
        return latents

    told = generator.conditions(front[None], encode)[0]
    with torch.no_grad(), placement.at_work(generator) as place:
        latents = sample(
            generator,
            generator.scheduler(),
            condition=told.to(place),
            channels=vae.config["latent_channels"],
            embedding=generator.embed(front[None, :3].to(place))[0],
            labels=labels.to(place),
            steps=params.sampling.steps,
            guidance_scale=params.sampling.guidance_scale,
            eta=params.sampling.eta,
            seed=params.seed,
            split_guidance=placement.plan().split_guidance,
        ).cpu()
    normal, colour = (latents / scale).chunk(2)
    colour[0] = told[0, : colour.shape[1]].cpu() / scale
    tensors, coverage = {"normal": normal.half(), "colour": colour.half()}, generator.coverage(front)
    if coverage is not None:
        tensors["coverage"] = coverage.half().cpu()
    return MultiviewLatents(
        source=inputs,
        latents=codec.put_tensors(store, tensors),
        cameras=codec.specs_from_cameras(orbit(size_px=params.view_size_px)),
        front_elevation_deg=generator.front_elevation_deg(front),
    )


STAGE = Stage(name="multiview", version=3, inputs=PreparedImage, params=Params, outputs=MultiviewLatents, run=run)

if __name__ == "__main__":
    main(STAGE)
