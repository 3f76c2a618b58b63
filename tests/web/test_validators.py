"""What the pipeline exports, before the Khronos validator and 3dqa, each a program of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from flows.reconstruct import stages_of
from img2mesh import presets
from img2mesh.manifests import MeshAsset, Model, SourceImage
from img2mesh.storage import open_store

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "examples" / "images"


@pytest.fixture(scope="module", params=["armchair.png", "teddy.png"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The GLB files of an example picture: the mesh and two coarser ones."""
    folder = tmp_path_factory.mktemp("exported")
    store = open_store(str(folder / "store"))
    tiny = presets.tiny()
    preset = tiny.model_copy(update={"export_mesh": tiny.export_mesh.model_copy(update={"lods": (2000, 600)})})
    made: Model = SourceImage(name="it", image=store.put_blob((PICTURES / request.param).read_bytes(), "image/png"))
    for stage, params in stages_of(preset, seed=0, formats=("glb",)):
        made = stage(made, params, store)
    assert isinstance(made, MeshAsset)
    paths = []
    for name, blob in made.files.items():
        (folder / name).write_bytes(store.get_blob(blob))
        paths += [folder / name] if name.endswith(".glb") else []
    return sorted(paths)


@pytest.mark.slow
def test_the_khronos_validator_finds_nothing(exported: list[Path], tools: Path) -> None:
    environment = {**os.environ, "NODE_PATH": str(tools / "node_modules")}
    done = subprocess.run(
        ["node", HERE / "validate.cjs", *exported], env=environment, capture_output=True, check=True, text=True
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 3
    assert [report["messages"] for report in reports] == [[], [], []]


@pytest.mark.slow
def test_3dqa_finds_no_defect(exported: list[Path], tools: Path) -> None:
    for path in exported:
        done = subprocess.run([tools / "3dqa" / "bin" / "3dqa", "lint", path], capture_output=True, check=True)
        assert [check["code"] for check in json.loads(done.stdout)["findings"] if not check["passed"]] == []
