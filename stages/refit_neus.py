"""The surface: fitted again, finer, to the aligned views."""

from img2mesh.manifests import AlignedViews, Model, Surface
from img2mesh.neus.config import FitConfig
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main
from img2mesh.storage import Store


class Params(Model):
    """Everything that changes the bytes of the output."""

    fit: FitConfig = FitConfig()
    seed: int = 0

    @classmethod
    def of(cls, preset: Preset, *, seed: int) -> "Params":
        """The preset's parameters for one seed."""
        return cls(fit=preset.refit_neus, seed=seed)


def run(inputs: AlignedViews, params: Params, store: Store) -> Surface:
    """Fit and store the field on its own grid."""
    from img2mesh import codec
    from img2mesh.neus.fit import fit

    views = codec.get_views(store, inputs.views, inputs.source.source.cameras)
    surface = fit(views, params.fit, seed=params.seed)
    return Surface(source=inputs, field=codec.put_tensors(store, {"sdf": surface.sdf}))


STAGE = Stage(name="refit_neus", version=7, inputs=AlignedViews, params=Params, outputs=Surface, run=run)

if __name__ == "__main__":
    main(STAGE)
