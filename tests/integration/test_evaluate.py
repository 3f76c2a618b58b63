"""`img2mesh eval` on objects of which the answer is known, with the shipped weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import trimesh
from typer.testing import CliRunner

from flows.cli import app


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball, a flat box, and a cone, which is held back as the last of a plain folder."""
    folder = tmp_path_factory.mktemp("objects")
    trimesh.creation.icosphere(subdivisions=3).export(folder / "ball.glb")
    trimesh.creation.box(extents=(1, 0.4, 0.7)).export(folder / "box.glb")
    trimesh.creation.cone(0.5, 1.0).export(folder / "cone.glb")
    return folder


@pytest.fixture(scope="module")
def views(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    result = CliRunner().invoke(app, ["data", "render", str(objects), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def evaluate(*arguments: str, out: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["eval", *arguments, "--split", "train", "--out", str(out), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    assert json.loads((out / f"{arguments[0]}.json").read_text(encoding="utf-8")) == document
    assert "95% interval" in (out / f"{arguments[0]}.md").read_text(encoding="utf-8")
    return document


def test_views_of_a_training_object_are_its_own_nearest(views: Path, tmp_path: Path) -> None:
    [comparison] = evaluate("views", str(views), out=tmp_path)["comparisons"]
    means = comparison["means"]
    assert means["nearest training object"]["psnr_db"]["mean"] == pytest.approx(120.0)
    assert means["nearest training object"]["silhouette_iou"]["mean"] == 1.0
    # A ball looks alike from everywhere, a box does not.
    assert comparison["objects"] == ["ball", "box"]
    inflated = [row["silhouette_iou"] for row in comparison["scores"]["front inflated"]]
    assert inflated[0] > 0.97
    copied = [row["silhouette_iou"] for row in comparison["scores"]["front copied"]]
    assert copied[0] > 0.99 > copied[1]
    assert comparison["reference"] == "generated"
    assert (tmp_path / "views.png").is_file()


@pytest.mark.slow
def test_true_views_agree_best_and_decoders_are_compared_on_the_same_latents(views: Path, tmp_path: Path) -> None:
    options = ("--latents", "encoded", "--preset", "tiny", "--count", "1", "--depth", "coarse,truth", "--radius", "0.1,0.5")
    [comparison] = evaluate("decoder", str(views), *options, out=tmp_path)["comparisons"]
    guided = [f"guided, r {radius}, {depth} depth" for depth in ("coarse", "truth") for radius in (0.1, 0.5)]
    assert list(comparison["scores"]) == [*guided, "plain", "plain, front carried by true depth", "delivered", "true views"]
    assert len({rows[0]["psnr_db"] for name, rows in comparison["scores"].items() if name in guided}) == 4
    errors = {name: rows[0]["reprojection"] for name, rows in comparison["scores"].items() if "carried" not in name}
    assert min(errors, key=lambda name: errors[name]) == "true views"
    assert "psnr_db" not in comparison["differences"]["true views"]
    assert (tmp_path / "decoder_encoded_curves.png").is_file()


@pytest.mark.slow
def test_a_ball_is_an_inflated_disc(objects: Path, tmp_path: Path) -> None:
    [comparison] = evaluate("meshes", str(objects), "--preset", "tiny", "--count", "1", out=tmp_path)["comparisons"]
    iou = {name: rows[0]["volume_iou"] for name, rows in comparison["scores"].items()}
    assert iou["inflated front"] > 0.93
    assert iou["six true views"] > 0.85
    assert set(iou) == {
        "pipeline",
        "refit without guided decode",
        "coarse fit alone",
        "copied front's hull",
        "inflated front",
        "six true views",
    }
