"""The tiny preset on an example picture: its numbers, stage by stage, and byte-identical meshes.

`PYTHONPATH=. python tests/golden/test_tiny.py` records the numbers anew, when the weights or a stage's version have changed.
"""

import io
import json
import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
import trimesh

from flows.reconstruct import stages_of
from img2mesh import codec, presets
from img2mesh.geometry.cameras import upright_from_front
from img2mesh.manifests import MeshAsset, Model, SourceImage
from img2mesh.storage import Store, open_store

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("tiny.json")
PICTURE = ROOT / "examples" / "images" / "armchair.png"


@cache
def walked(run: int) -> tuple[Store, tuple[Model, ...]]:
    """Every manifest of one run in a store of its own, by one thread: a thin leg hangs on or not by the order of sums."""
    store, threads = open_store(mkdtemp(prefix=f"golden{run}-")), torch.get_num_threads()
    manifests: list[Model] = [SourceImage(name="armchair", image=store.put_blob(PICTURE.read_bytes(), "image/png"))]
    torch.set_num_threads(1)
    try:
        for stage, params in stages_of(presets.tiny(), seed=0, formats=("glb",)):
            manifests.append(stage(manifests[-1], params, store))
    finally:
        torch.set_num_threads(threads)
    return store, tuple(manifests)


def numbers() -> dict[str, float]:
    """A few sums of what each stage wrote."""
    store, (_, prepared, latents, coarse, aligned, surface, asset) = walked(0)
    picture = codec.get_picture(store, prepared.image)
    sampled = codec.get_tensors(store, latents.latents)
    depth = codec.get_tensors(store, coarse.depth)["depth"]
    views = codec.get_views(store, aligned.views, latents.cameras)
    sdf = codec.get_tensors(store, surface.field)["sdf"]
    values = {
        "prepared_coverage": picture[3].mean(),
        "colour_latents_std": sampled["colour"].float().std(),
        "normal_latents_std": sampled["normal"].float().std(),
        "depth_mean": depth[depth > 0].mean(),
        "aligned_coverage": views.alpha.mean(),
        "aligned_lightness": views.rgb.mean(),
        "inside_share": (sdf < 0).float().mean(),
    }
    return {**{name: float(value) for name, value in values.items()}, **asset.scores}


@pytest.mark.slow
def test_the_numbers_are_the_golden_ones() -> None:
    found, golden = numbers(), json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    # Another processor sums in another order, and the fit amplifies that a little: a thin leg may hang on or not.
    allowed = {"components": 1.0}
    assert [n for n in golden if not math.isclose(found[n], golden[n], rel_tol=0.05, abs_tol=allowed.get(n, 1e-3))] == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = walked(0)[1][-1], walked(1)[1][-1]
    assert isinstance(first, MeshAsset)
    assert isinstance(second, MeshAsset)
    assert first.files == second.files


@pytest.mark.slow
def test_what_is_pictured_from_above_stands_upright() -> None:
    store, (_, _, latents, coarse, aligned, surface, asset) = walked(0)
    assert isinstance(asset, MeshAsset)
    stage, params = stages_of(presets.tiny(), seed=0, formats=("glb",))[-1]
    raised = latents.model_copy(update={"front_elevation_deg": 40.0})
    for manifest in (coarse, aligned, surface):
        raised = manifest.model_copy(update={"source": raised})
    standing = stage(raised, params, store)
    assert isinstance(standing, MeshAsset)
    before, after = (trimesh.load_mesh(io.BytesIO(store.get_blob(a.files["mesh.glb"])), "glb") for a in (asset, standing))
    turn = upright_from_front(40.0 - latents.front_elevation_deg)
    np.testing.assert_allclose(after.vertices, before.vertices @ turn.T, atol=1e-5)
    assert standing.scores == asset.scores | {"front_elevation_deg": 40.0}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: round(value, 5) for name, value in numbers().items()}, indent=1) + "\n")
