"""The bake and the files, on a ball that is painted a colour from each side."""

import io
import json
import struct
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from img2mesh.errors import InputError
from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG, VIEW_NAMES, orbit
from img2mesh.geometry.light import DEFAULT_LIGHT
from img2mesh.geometry.views import Views
from img2mesh.mesh.clean import clean
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.export import FORMATS, write_files
from img2mesh.mesh.extract import extract
from img2mesh.mesh.preview import sheet
from img2mesh.mesh.render import bilinear, render
from img2mesh.mesh.texture import bake, compensated, source_of_vertices
from img2mesh.mesh.topology import Mesh, defects
from img2mesh.mesh.uv import TexturedMesh, unwrap

CONFIG = ExportConfig(compensate=False, faces=1500, texture_px=256, preview_px=480)
RADIUS = 0.6
# No paint has blue in it, so that blue anywhere is the white behind the views.
COLOURS = torch.tensor([[0.8, 0.1, 0], [0.8, 0.8, 0], [0.1, 0.8, 0], [0.1, 0.1, 0], [0.4, 0.1, 0], [0.4, 0.8, 0]])
PAINT = (200, 120, 0)
PROVENANCE = {"tool": "img2mesh test", "inputSha256": "0" * 64, "aiGenerated": True}


def disc(size: int) -> torch.Tensor:
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    return (line[:, None] ** 2 + line[None] ** 2).sqrt() < RADIUS


def views() -> Views:
    alpha = disc(64).float().expand(6, -1, -1)
    rgb = COLOURS[:, :, None, None] * alpha[:, None] + 1 - alpha[:, None]
    return Views(cameras=orbit(size_px=64), rgb=rgb, alpha=alpha, normals=torch.zeros(6, 3, 64, 64))


def picture() -> np.ndarray:
    rgba = np.zeros((128, 128, 4), dtype=np.uint8)
    rgba[disc(128).numpy()] = (*PAINT, 255)
    return rgba


@cache
def cleaned() -> Mesh:
    line = np.linspace(-1, 1, 32)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    return clean(extract(np.sqrt(x**2 + y**2 + z**2) - RADIUS), faces=CONFIG.faces, speck_share=0.01).mesh


@cache
def textured() -> TexturedMesh:
    return bake(unwrap(cleaned(), CONFIG.texture_px), views(), picture(), CONFIG)


@cache
def files() -> dict[str, bytes]:
    return write_files(textured(), FORMATS, PROVENANCE)


def test_unwrapping_keeps_faces_and_places_them_apart() -> None:
    mesh = unwrap(cleaned(), 256)
    assert np.allclose(mesh.vertices[mesh.faces], cleaned().vertices[cleaned().faces])
    assert mesh.uv.min() >= 0
    assert mesh.uv.max() <= 1
    corners = mesh.uv[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    areas = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    # Charts that do not overlap fit into the unit square, and a good atlas uses much of it.
    assert 0.3 < areas.sum() <= 1


def test_each_side_has_the_colour_of_its_view() -> None:
    seen = render(textured(), orbit(VIEW_AZIMUTHS_DEG, size_px=65)).rgb[:, 32, 32]
    assert seen[0] == pytest.approx(np.array(PAINT) / 255, abs=0.02)
    assert seen[2:5] == pytest.approx(COLOURS[2:5].numpy(), abs=0.1)


def test_generated_colours_are_brought_to_the_pictures() -> None:
    truth = np.random.default_rng(0).random((2000, 3))
    washed_out = 0.3 + 0.7 * truth + [0.0, 0.1, -0.2]
    overlap = (np.arange(2000) < 500).astype(float)
    assert np.abs(compensated(washed_out, truth, overlap) - truth).max() < 0.05
    assert np.array_equal(compensated(washed_out, truth, overlap * 0), washed_out)


def test_flat_generated_colours_are_shifted_and_not_stretched() -> None:
    grey = np.full((300, 3), 0.4)
    green = np.tile([0.1, 0.6, 0.1], (300, 1))
    assert np.allclose(compensated(grey, green, np.ones(300)), green)


def test_no_background_bleeds_into_the_texture() -> None:
    renders = render(textured(), orbit((0, 60, 120, 180, 240, 300), size_px=64, elevation_deg=35))
    assert renders.rgb[renders.alpha > 0.99][:, 2].max() < 0.02
    assert textured().texture[..., 2].max() < 0.02 * 255


def test_renders_have_the_balls_silhouette_and_normals() -> None:
    renders = render(textured(), orbit((0, 90), size_px=64))
    for view in range(2):
        share = (renders.alpha[view] > 0.5).mean()
        assert share == pytest.approx(np.pi * RADIUS**2 / 4, rel=0.02)
    assert renders.normals[0, 32, 32] == pytest.approx([0, 0, 1], abs=0.1)
    assert renders.normals[1, 32, 32] == pytest.approx([1, 0, 0], abs=0.1)


def test_bilinear_lookup_by_hand() -> None:
    image = np.array([[[0.0], [10.0]], [[20.0], [30.0]]])
    uv = np.array([[0.25, 0.25], [0.5, 0.25], [0.5, 0.5], [1.0, 1.0], [0.0, 0.75]])
    assert bilinear(image, uv)[:, 0] == pytest.approx([0, 5, 15, 30, 20])


def test_glb_says_what_it_is_and_faces_the_viewer() -> None:
    data = files()["mesh.glb"]
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    document = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    extras = document["asset"]["extras"]
    assert {name: extras[name] for name in PROVENANCE} == PROVENANCE
    assert (extras["upAxis"], extras["metersPerUnit"]) == ("+Y", 1.0)
    assert extras["centre"] == pytest.approx(cleaned().vertices.mean(axis=0), abs=0.02)
    assert extras["size"] == pytest.approx([2 * RADIUS] * 3, abs=0.02)
    assert all("matrix" not in node or node["matrix"] == np.eye(4).T.reshape(-1).tolist() for node in document["nodes"])
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert (material["metallicFactor"], material["roughnessFactor"]) == (0.0, 1.0)
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb")
    assert np.allclose(scene.bounds, [cleaned().vertices.min(axis=0), cleaned().vertices.max(axis=0)], atol=1e-5)
    mesh = next(iter(scene.geometry.values()))
    image = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    assert (image == textured().texture).all()
    front = int(np.argmax(mesh.vertices[:, 2]))
    uv = mesh.visual.uv[front] * [1, -1] + [0, 1]
    assert bilinear(image, uv[None])[0] == pytest.approx(PAINT, abs=6)


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.ply", "mesh.stl", "mesh.obj"])
def test_files_are_sound_after_welding(name: str) -> None:
    mesh = trimesh.load_mesh(io.BytesIO(files()[name]), file_type=name.split(".")[1], process=False)
    assert defects(Mesh(vertices=np.asarray(mesh.vertices, dtype=np.float64), faces=np.asarray(mesh.faces))) == ()


def test_usd_reads_the_same_mesh_texture_and_metadata(tmp_path: Path) -> None:
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    path = tmp_path / "mesh.usdz"
    path.write_bytes(files()["mesh.usdz"])
    stage = Usd.Stage.Open(str(path))
    assert [
        str(error)
        for error in UsdValidation.ValidationContext(UsdValidation.ValidationRegistry().GetOrLoadAllValidators()).Validate(
            stage
        )
    ] == []
    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    told = stage.GetRootLayer().customLayerData
    assert {name: told[name] for name in PROVENANCE} == PROVENANCE
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Asset/mesh"))
    faces = np.asarray(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    points = np.asarray(mesh.GetPointsAttr().Get(), dtype=np.float64)
    assert np.allclose(points[faces], cleaned().vertices[cleaned().faces], atol=1e-6)
    assert defects(Mesh(vertices=points, faces=faces.astype(np.int64))) == ()
    place = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    corners = np.asarray(place.ComputeFlattened()).reshape(-1, 3, 2)
    assert np.allclose(corners * [1, -1] + [0, 1], textured().mesh.uv[textured().mesh.faces], atol=1e-6)
    material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
    shader = material.ComputeSurfaceSource()[0]
    source = UsdShade.Shader(shader.GetInput("diffuseColor").GetConnectedSources()[0][0].source.GetPrim())
    asset = source.GetInput("file").Get()
    with zipfile.ZipFile(path) as archive:
        image = Image.open(archive.open(asset.path))
        offsets = [entry.header_offset + 30 + len(entry.filename) + len(entry.extra) for entry in archive.infolist()]
    assert (np.asarray(image) == textured().texture).all()
    assert [offset % 64 for offset in offsets] == [0, 0]


def test_comments_and_headers_say_units_and_axes() -> None:
    turned = write_files(textured(), FORMATS, {**PROVENANCE, "inputName": "a\nb"}, up="+Z", stem="other")
    assert set(turned) == {name.replace("mesh", "other") for name in files()}
    assert b'# upAxis: "+Z"\n' in turned["other.obj"]
    assert b'# inputName: "a\\nb"\n' in turned["other.obj"]
    assert b"mtllib other.mtl\n" in turned["other.obj"]
    assert b"map_Kd other_texture.png\n" in turned["other.mtl"]
    assert b'comment upAxis: "+Z"\n' in turned["other.ply"]
    assert turned["other.stl"].startswith(b"img2mesh test; up +Z; a unit is 1 m ")


def test_texture_and_places_in_obj_are_those_of_the_mesh(tmp_path: Path) -> None:
    for file, data in files().items():
        (tmp_path / file).write_bytes(data)
    mesh = trimesh.load_mesh(tmp_path / "mesh.obj", process=False)
    assert (np.asarray(mesh.visual.material.image) == textured().texture).all()
    assert np.allclose(mesh.visual.uv[mesh.faces] * [1, -1] + [0, 1], textured().mesh.uv[textured().mesh.faces], atol=1e-6)
    assert np.allclose(mesh.vertices[mesh.faces], cleaned().vertices[cleaned().faces], atol=1e-6)


@pytest.mark.parametrize("name", ["mesh.obj", "mesh.ply", "mesh.stl"])
def test_open3d_reads_the_same_bounds(tmp_path: Path, name: str) -> None:
    import open3d

    for file, data in files().items():
        (tmp_path / file).write_bytes(data)
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / name), enable_post_processing=name.endswith("obj"))
    assert len(mesh.triangles) == len(cleaned().faces)
    assert mesh.get_min_bound() == pytest.approx(cleaned().vertices.min(axis=0), abs=1e-5)
    assert mesh.get_max_bound() == pytest.approx(cleaned().vertices.max(axis=0), abs=1e-5)
    if name.endswith("obj"):
        assert np.asarray(mesh.textures[0]).shape[:2] == (256, 256)
    if name.endswith("ply"):
        front = int(np.argmax(np.asarray(mesh.vertices)[:, 2]))
        assert np.asarray(mesh.vertex_colors)[front] * 255 == pytest.approx(PAINT, abs=6)


def test_the_same_mesh_gives_the_same_bytes() -> None:
    again = bake(unwrap(cleaned(), CONFIG.texture_px), views(), picture(), CONFIG)
    assert write_files(again, FORMATS, PROVENANCE) == files()


@pytest.mark.parametrize("formats", [("fbx",), ("glb", "step"), ()])
def test_unknown_formats_are_refused(formats: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="glb, usdz, obj, ply, stl"):
        write_files(textured(), formats, PROVENANCE)


def test_preview_is_as_wide_as_asked_and_shows_the_input() -> None:
    shown = sheet(textured(), views(), picture(), VIEW_NAMES, CONFIG.preview_px)
    assert shown.shape[1] == CONFIG.preview_px
    assert (np.abs(shown.astype(int) - PAINT).max(axis=2) < 8).mean() > 0.02


def test_the_shade_of_generated_views_is_taken_out() -> None:
    inside, line = disc(64), (torch.arange(64) + 0.5) / 32 - 1
    right, up = line.expand(64, 64) / RADIUS, -line[:, None].expand(64, 64) / RADIUS
    local = torch.stack([right, up, (1 - right**2 - up**2).clamp(min=0).sqrt()]) * inside
    # Of a camera: right, down, forward.
    turns = orbit(size_px=64).world_from_camera[:, :3, :3] * torch.tensor([1.0, -1, -1])
    normals = torch.einsum("vij,jhw->vihw", turns, local)
    shade = torch.from_numpy(DEFAULT_LIGHT.strength(normals.movedim(1, -1).numpy()))
    shaded = replace(views(), rgb=torch.where(inside, 0.5 * shade, 1.0)[:, None].expand(-1, 3, -1, -1), normals=normals)

    def around(config: ExportConfig) -> np.ndarray:
        rendered = render(bake(unwrap(cleaned(), 256), shaded, None, config), orbit((0, 90, 180, 270), size_px=65))
        return rendered.rgb[:, 16:49, 32, 0]

    # In the light the back has three fifths of the front's brightness.
    assert np.ptp(around(CONFIG)) > 0.15
    assert around(CONFIG.model_copy(update={"light": DEFAULT_LIGHT})) == pytest.approx(0.5, abs=0.02)


def test_what_no_view_sees_has_the_colour_of_what_is_around_it() -> None:
    above = render(textured(), orbit((0, 180), size_px=65, elevation_deg=90)).rgb[:, 32, 32]
    seen = np.concatenate([COLOURS.numpy()[1:], [np.array(PAINT) / 255]])
    for colour in above:
        assert (colour > seen.min(axis=0) - 0.01).all()
        assert (colour < seen.max(axis=0) + 0.01).all()


def test_views_meet_without_a_jump() -> None:
    mesh = textured().mesh
    sources = source_of_vertices(mesh, views(), picture(), CONFIG)
    assert sources[np.argmax(mesh.vertices[:, 2])] == 0
    assert sources[np.argmin(mesh.vertices[:, 2])] == 3
    edges = mesh.faces[:, :2]
    jumps = np.abs(np.diff(bilinear(textured().texture, mesh.uv)[edges], axis=1))[:, 0].mean(axis=1)
    meeting = (sources[edges] >= 0).all(axis=1) & (sources[edges[:, 0]] != sources[edges[:, 1]])
    # Neighbouring views of the ball differ by 60 to 140 of 255; one edge, 5 degrees long, takes a part of that.
    assert jumps[meeting].mean() < 30
    assert jumps.max() < 70


def test_a_surface_that_no_view_shows_becomes_grey() -> None:
    nothing = views()
    blind = Views(cameras=nothing.cameras, rgb=nothing.rgb, alpha=torch.zeros(6, 64, 64), normals=nothing.normals)
    texture = bake(unwrap(cleaned(), 256), blind, np.zeros((64, 64, 4), dtype=np.uint8), CONFIG).texture
    assert set(np.unique(texture)) <= {127, 128}
