"""Collections of meshes as objects to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from img2mesh.data.gather import gather, told
from img2mesh.data.objects import load_object
from img2mesh.errors import InputError

RED = (180, 0, 0, 255)


def collection(folder: Path) -> Path:
    """A red box, two boxes without colours, a sheet, and a broken file."""
    red: Any = trimesh.creation.box((1.0, 0.8, 0.6))
    # Their types leave out what they are called with.
    textured: Any = trimesh.visual.TextureVisuals
    coloured: Any = trimesh.visual.material.PBRMaterial
    red.visual = textured(uv=np.zeros((len(red.vertices), 2)), material=coloured(baseColorFactor=RED))
    (folder / "bright").mkdir(parents=True)
    red.export(folder / "bright" / "red.glb")
    bare: Any = trimesh.Scene([trimesh.creation.box((1.0, 0.5, 0.6)), trimesh.creation.icosphere(subdivisions=2, radius=0.4)])
    bare.export(folder / "bare.glb")
    sheet: Any = trimesh.creation.box((1.0, 0.01, 0.6))
    sheet.export(folder / "sheet.glb")
    (folder / "broken.glb").write_bytes(b"no mesh")
    return folder


def colours_of(path: Path) -> np.ndarray:
    """Each part's mean colour."""
    return np.array([texture.reshape(-1, 4)[:, :3].mean(axis=0) for texture in load_object(path).textures])


def test_what_is_fit_is_taken_and_the_rest_named(tmp_path: Path) -> None:
    found = dict(gather(collection(tmp_path / "in"), tmp_path / "out"))
    assert found == {"bare": "", "bright__red": "", "sheet": "too thin", "broken": "not readable"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bare.glb", "bright__red.glb"]
    assert told(iter(found.items())) == "2 objects, 1 not readable, 1 too thin"


def test_own_colours_stay_and_bare_objects_get_the_same_ones_every_time(tmp_path: Path) -> None:
    folder = collection(tmp_path / "in")
    for out in ("one", "two"):
        list(gather(folder, tmp_path / out))
    red = colours_of(tmp_path / "one" / "bright__red.glb")[0]
    assert red[0] > 150
    assert red[1:].max() < 5
    bare = colours_of(tmp_path / "one" / "bare.glb")
    assert len(bare) == 2
    assert (bare < 254).any()
    assert np.array_equal(bare, colours_of(tmp_path / "two" / "bare.glb"))


def test_a_folder_without_meshes_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .glb or .gltf files in .*: give a folder of meshes"):
        list(gather(tmp_path, tmp_path / "out"))
