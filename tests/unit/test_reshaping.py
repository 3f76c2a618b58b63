"""Changes of pictures that are to give the true views of another object, against renders of that object."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trimesh
from torch import Tensor
from torch.nn import functional

from img2mesh.data.objects import TexturedObject
from img2mesh.data.render import FRAME_LIMIT, FRONT_SIDE, place, render_views
from img2mesh.geometry.cameras import orbit
from img2mesh.metrics.image import silhouette_iou
from img2mesh.training.reshaping import Change, ReshapeConfig

SIZE_PX = 128


def boulder() -> TexturedObject:
    """An ellipsoid as deep as high, twice as wide."""
    mesh = trimesh.creation.icosphere(subdivisions=5)
    mesh.apply_scale([2.0, 1.0, 1.0])
    return place(
        TexturedObject(
            vertices=np.asarray(mesh.vertices, dtype=np.float32),
            faces=np.asarray(mesh.faces, dtype=np.int32),
            uv=np.zeros((len(mesh.faces), 3, 2), dtype=np.float32),
            material=np.zeros(len(mesh.faces), dtype=np.int32),
            textures=(np.array((200, 100, 50, 255), dtype=np.uint8).reshape(1, 1, 4),),
        )
    )


def views_of(obj: TexturedObject) -> Tensor:
    """Colour over white, coverage and normals of the six views."""
    rendered = render_views(obj, orbit(size_px=SIZE_PX))
    rgba = torch.from_numpy(rendered.rgba).float().movedim(-1, 1) / 255
    alpha = rgba[:, 3:]
    normals = torch.from_numpy(rendered.normals).movedim(-1, 1) * alpha
    return torch.cat([rgba[:, :3] * alpha + 1 - alpha, alpha, normals], dim=1)[None]


def drawn(views: Tensor, seed: int, config: ReshapeConfig) -> Change:
    """What would be done to them, but for mirror image and colours."""
    small = functional.adaptive_avg_pool2d(views[0], 32)[None]
    change = Change.drawn(small, config, torch.Generator().manual_seed(seed))
    return replace(change, mirrored=torch.tensor([False]), order=torch.arange(3)[None], gain=torch.ones(1))


def reshaped(obj: TexturedObject, change: Change) -> TexturedObject:
    """The object that the change of its pictures stands for. Rows of a picture go down, y goes up."""
    rows = (np.arange(SIZE_PX) + 0.5) / SIZE_PX * 2 - 1
    row = np.interp(-obj.vertices[:, 1], change.source[0].numpy(), rows)
    wider: npt.NDArray[np.float32] = np.interp(row, rows, change.widen[0].numpy())
    return obj.with_vertices(
        np.stack([obj.vertices[:, 0] * wider, -row, obj.vertices[:, 2] * wider], axis=1).astype(np.float32)
    )


@pytest.mark.parametrize("seed", range(4))
def test_changed_pictures_are_those_of_the_changed_object(seed: int) -> None:
    obj = boulder()
    views = views_of(obj)
    change = drawn(views, seed, ReshapeConfig())
    changed, true = change.of(views)[0], views_of(reshaped(obj, change))[0]
    assert silhouette_iou(changed[:, 3], true[:, 3]) > 0.98
    assert silhouette_iou(views[0, :, 3], true[:, 3]) < 0.95
    inside = functional.max_pool2d(1 - torch.minimum(changed[:, 3:4], true[:, 3:4]), 5, stride=1, padding=2)[:, 0] == 0
    cosine = (changed[:, 4:] * true[:, 4:]).sum(dim=1)[inside]
    # A row's widening tilts surfaces where it changes from row to row, which the normals are not told.
    assert float(cosine.mean()) > 0.9


def test_normals_of_an_evenly_stretched_object_are_exact() -> None:
    obj = boulder()
    views = views_of(obj)
    change = drawn(views, 4, ReshapeConfig(stretch=0.5, bend=0, swell=0))
    changed, true = change.of(views)[0], views_of(reshaped(obj, change))[0]
    inside = functional.max_pool2d(1 - torch.minimum(changed[:, 3:4], true[:, 3:4]), 5, stride=1, padding=2)[:, 0] == 0
    assert float((changed[:, 4:] * true[:, 4:]).sum(dim=1)[inside].min()) > 0.99
    assert float((views[0, :, 4:] * true[:, 4:]).sum(dim=1)[inside].min()) < 0.98


@pytest.mark.parametrize("seed", range(4))
def test_changed_objects_are_placed_as_rendered_ones_are(seed: int) -> None:
    views = views_of(boulder())
    inside = drawn(views, seed, ReshapeConfig()).of(views)[0, :, 3] >= 0.5
    height, width = inside[0].any(dim=1).sum() / SIZE_PX * 2, inside[0].any(dim=0).sum() / SIZE_PX * 2
    # Masks of 32 px tell where an object ends to within half a pixel on either side.
    assert float(max(height, width)) == pytest.approx(FRONT_SIDE, abs=0.1)
    assert int(inside.any(dim=0).any(dim=0).sum()) / SIZE_PX < FRAME_LIMIT


def test_colours_change_alike_in_all_views_and_white_stays() -> None:
    views = torch.rand(8, 6, 7, 32, 32)
    views[:, :, 3] = (views[:, :, 3] > 0.5).float()
    views[:, :, :3] = torch.where(views[:, :, 3:4] > 0, torch.tensor([0.2, 0.4, 0.6])[:, None, None], torch.ones(()))
    changed = Change.drawn(views, ReshapeConfig(), torch.Generator().manual_seed(0))._recoloured(views)
    assert torch.all(changed[:, :, :3][(views[:, :, 3:4] == 0).expand(-1, -1, 3, -1, -1)] == 1)
    assert torch.equal(changed[:, :, 3:], views[:, :, 3:])
    covered = views[:, :, 3] > 0
    found = set()
    for before, after, inside in zip(views, changed, covered, strict=True):
        colours = after[:, :3].movedim(1, -1)[inside].unique(dim=0)
        assert len(colours) == 1
        assert before.shape == after.shape
        found.add(tuple(colours[0].tolist()))
    assert len(found) > 2


def test_a_front_changes_as_the_front_among_its_views_does() -> None:
    torch.manual_seed(0)
    views = functional.interpolate(torch.rand(8 * 6, 7, 4, 4), size=32).unflatten(0, (8, 6))
    views[:, :, :3] = views[:, :, :3] * views[:, :, 3:4] + 1 - views[:, :, 3:4]
    change = Change.drawn(views, ReshapeConfig(), torch.Generator().manual_seed(4))
    assert 0 < change.mirrored.sum() < 8
    torch.testing.assert_close(change.of(views[:, :1, :4]), change.of(views)[:, :1, :4])
