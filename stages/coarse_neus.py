"""The coarse geometry: latents decoded plainly, a surface fitted to them, and its depth in every view."""

from img2mesh.manifests import CoarseGeometry, Model, MultiviewLatents, WeightsRef
from img2mesh.neus.config import FitConfig
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main
from img2mesh.storage import Store


class Params(Model):
    """Everything that changes the bytes of the output."""

    weights: WeightsRef
    fit: FitConfig = FitConfig()
    seed: int = 0

    @classmethod
    def of(cls, preset: Preset, *, seed: int) -> "Params":
        """The preset's parameters for one seed."""
        return cls(weights=preset.autoencoder, fit=preset.coarse_neus, seed=seed)


def run(inputs: MultiviewLatents, params: Params, store: Store) -> CoarseGeometry:
    """Decode, fit, render the depth."""
    import torch

    from img2mesh import codec
    from img2mesh.models.autoencoder import decode_views, load
    from img2mesh.neus.fit import fit

    front = torch.from_numpy(codec.get_rgba(store, inputs.source.image).copy()).permute(2, 0, 1).float() / 255
    views = decode_views(
        codec.get_tensors(store, inputs.latents),
        codec.cameras_from_specs(inputs.cameras),
        front,
        load(params.weights.name, params.weights.sha256),
    )
    depth, confidence = fit(views, params.fit, seed=params.seed).render_depth(views.cameras)
    return CoarseGeometry(
        source=inputs,
        views=codec.put_views(store, views),
        depth=codec.put_tensors(store, {"depth": depth, "confidence": confidence}),
    )


STAGE = Stage(name="coarse_neus", version=11, inputs=MultiviewLatents, params=Params, outputs=CoarseGeometry, run=run)

if __name__ == "__main__":
    main(STAGE)
