"""What is asked for beside a preset, on the command line, in a service's document and in Prefect's UI."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.batch import batch
from flows.cli import app
from flows.deployments import read_service
from flows.options import all_formats, mesh_options, method_of, split_formats, split_lods
from flows.submit import Request
from img2mesh.errors import InputError

SERVICE = """
[[batches]]
name = "daily"
inbox = "{inbox}"
assets = "{inbox}/assets"
store = "{inbox}/work"
cron = "0 3 * * *"
preset = "tiny"
formats = ["STL", "usdz"]
lods = [8000, 900]
remesh = "isotropic"
seed = 7
neus = "nerfstudio-neus"
"""
OPTIONS = "--name daily --preset tiny --formats usdz,stl --lods 8000,900 --remesh isotropic --seed 7 --neus nerfstudio-neus"


def test_budgets_become_the_exports_configuration() -> None:
    assert mesh_options(None, None, None) == {}
    assert mesh_options(5000, None, "isotropic") == {"faces": 5000, "remesh": "isotropic"}
    assert mesh_options(None, split_lods("20000, 5000,1000"), None) == {"faces": 20_000, "lods": (5000, 1000)}


@pytest.mark.parametrize(("faces", "lods"), [(None, "5000,20000"), (None, "many"), (None, ""), (300, "200,100"), (None, "9,3")])
def test_budgets_that_make_no_sense_are_refused(faces: int | None, lods: str) -> None:
    with pytest.raises(InputError, match="lods"):
        mesh_options(faces, split_lods(lods), None)


@pytest.mark.parametrize("wrong", [{"faces": 99}, {"faces": 10**9}, {"lods": []}, {"remesh": "cubic"}])
def test_a_run_started_with_nonsense_ends_before_it_looks_at_anything(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Request.of(["in"], **wrong)
    with pytest.raises(InputError, match="unknown neus"):
        method_of("nerf")


def test_formats_are_sorted_each_once_and_always_with_glb() -> None:
    assert split_formats("OBJ, .stl,obj") == all_formats(["stl", "OBJ"]) == ["glb", "obj", "stl"]
    assert split_formats("") == ["glb"]


def test_a_scheduled_batch_asks_for_what_the_command_line_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def note(request: Request, pipeline: Any, **_: Any) -> None:
        asked.append((request, [(stage.name, params) for stage, params in pipeline]))
        raise InputError("noted")

    monkeypatch.setattr("flows.submit.submit", note)
    monkeypatch.setattr("flows.cli._installed", method_of)
    (tmp_path / "service.toml").write_text(SERVICE.format(inbox=tmp_path))
    (one,) = read_service(tmp_path / "service.toml").batches
    places = [str(tmp_path), "--assets", f"{tmp_path}/assets", "--store", f"{tmp_path}/work"]
    CliRunner().invoke(app, ["submit", *places, *OPTIONS.split()])
    with pytest.raises(InputError, match="noted"):
        batch.fn(**batch.validate_parameters(one.parameters()))
    assert asked[0] == asked[1]
    assert (asked[0][0].lods, asked[0][0].remesh, asked[0][0].formats) == ((8000, 900), "isotropic", ("glb", "stl", "usdz"))


def test_deploy_takes_the_options_and_refuses_nonsense_before_it_asks_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("flows.deployments.deploy", registered.append)
    monkeypatch.setattr("flows.cli.method_of", method_of)
    place = ["deploy", "--cron", "0 3 * * *", "--inbox", "s3://team/inbox"]
    assert CliRunner().invoke(app, [*place, *OPTIONS.split(), "--launch", "podman"]).exit_code == 0
    (one,) = registered.pop().batches
    assert (one.preset, one.lods, one.remesh, one.seed, one.launch) == ("tiny", (8000, 900), "isotropic", 7, "podman")
    with pytest.raises(InputError, match="lods"):
        CliRunner().invoke(app, [*place, "--lods", "1,2"], catch_exceptions=False)
    assert registered == []
