"""A generator from outside the package takes the place of the shipped one."""

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

from flows.reconstruct import stages_of, with_generator
from img2mesh import codec, presets
from img2mesh.manifests import PreparedImage, SourceImage
from img2mesh.storage import open_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_generator.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_generator", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_latents_decode_with_the_presets_autoencoder(example: ModuleType, tmp_path: Path) -> None:
    from img2mesh.models import autoencoder

    preset = presets.tiny()
    params = example.Params(autoencoder=preset.autoencoder, view_size_px=preset.view_size_px)
    pipeline = with_generator(stages_of(preset, seed=0, formats=("glb",)), example.STAGE, params)
    names = [stage.name for stage, _ in pipeline]
    assert names == ["prepare", "narrowing", "coarse_neus", "decode", "refit_neus", "export_mesh"]
    store = open_store(str(tmp_path))
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).rectangle((32, 16, 64, 112), fill=(30, 60, 200, 255))
    data = io.BytesIO()
    picture.save(data, "PNG")
    blob = store.put_blob(data.getvalue(), "image/png")
    prepared = PreparedImage(source=SourceImage(name="bar", image=blob), image=blob, matting="alpha", matting_confidence=1.0)
    latents = example.STAGE(prepared, params, store)
    views = autoencoder.decode_views(
        codec.get_tensors(store, latents.latents),
        codec.cameras_from_specs(latents.cameras),
        codec.get_picture(store, blob),
        autoencoder.load(preset.autoencoder.name, preset.autoencoder.sha256),
    )
    # The bar stands left of the middle; from behind it is seen on the right.
    columns = views.alpha.mean(dim=1)
    assert columns[0, :64].sum() > 10 * columns[0, 64:].sum()
    assert columns[3, 64:].sum() > 10 * columns[3, :64].sum()
