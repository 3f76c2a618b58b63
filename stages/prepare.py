"""prepare: any picture becomes a square cut-out, the object centred, its longest side three quarters of the frame."""

from pathlib import Path

from img2mesh.data.config import PrepareConfig, find_matting_model
from img2mesh.errors import ArtifactError
from img2mesh.manifests import Model, PreparedImage, SourceImage, WeightsRef
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main, sha256_hex
from img2mesh.storage import Store


class Params(Model):
    """Everything that changes the bytes of the output.

    Attributes:
        matting_model: The rembg model for pictures without alpha; None: the OpenCV cut-out.
    """

    config: PrepareConfig = PrepareConfig()
    matting_model: WeightsRef | None = None

    @classmethod
    def of(cls, preset: Preset, *, seed: int) -> "Params":
        """The preset's parameters, with the matting model that this machine has; preparing has no randomness."""
        del seed
        path = find_matting_model()
        model = WeightsRef(name=path.stem, sha256=sha256_hex(path.read_bytes())) if path else None
        return cls(config=preset.prepare, matting_model=model)


def run(inputs: SourceImage, params: Params, store: Store) -> PreparedImage:
    """Decode, matte, crop and centre.

    Raises:
        InputError: The picture cannot be used.
        ArtifactError: The matting model is not the one that the parameters name.
    """
    from img2mesh.data.decoding import decode_apart
    from img2mesh.data.preprocess import prepare_picture

    model = _local_model(params.matting_model) if params.matting_model else None
    data = store.get_blob(inputs.image)
    prepared = prepare_picture(data, params.config, name=inputs.name, matting_model=model, decoder=decode_apart)

    from img2mesh import codec  # after the refusals: it brings torch

    return PreparedImage(
        source=inputs,
        image=codec.put_rgba(store, prepared.rgba),
        matting=prepared.matting,
        matting_confidence=prepared.confidence,
    )


def _local_model(expected: WeightsRef) -> Path:
    path = find_matting_model()
    if path is None or path.stem != expected.name or sha256_hex(path.read_bytes()) != expected.sha256:
        found = "none" if path is None else str(path)
        wanted = f"rembg's model {expected.name} ({expected.sha256[:12]})"
        raise ArtifactError(f"expected {wanted}, found {found}; install rembg with it, or submit again without it")
    return path


STAGE = Stage(name="prepare", version=1, inputs=SourceImage, params=Params, outputs=PreparedImage, run=run)

if __name__ == "__main__":
    main(STAGE)
