"""Rendering and placing objects against shapes whose pictures are known."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.numpy import load_file

from img2mesh.data.objects import ObjectEntry, TexturedObject, list_objects, load_object, srgb_from_linear
from img2mesh.data.render import (
    DEPTH_STEPS,
    FRAME_LIMIT,
    MOST_RAISED_DEG,
    encode_normals,
    front_azimuths,
    front_light,
    place,
    raised_fronts,
    render_dataset,
    render_views,
    safe_name,
)
from img2mesh.errors import InputError
from img2mesh.geometry.cameras import VIEW_NAMES, orbit, project, unproject, upright_from_front
from img2mesh.geometry.light import ALBEDO, DEFAULT_LIGHT, Light
from img2mesh.manifests import CameraSpec

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Array = npt.NDArray[np.generic]


def coloured(mesh: trimesh.Trimesh, colour: tuple[int, int, int] = (200, 100, 50)) -> TexturedObject:
    return TexturedObject(
        vertices=np.asarray(mesh.vertices, dtype=np.float32),
        faces=np.asarray(mesh.faces, dtype=np.int32),
        uv=np.zeros((len(mesh.faces), 3, 2), dtype=np.float32),
        material=np.zeros(len(mesh.faces), dtype=np.int32),
        textures=(np.array((*colour, 255), dtype=np.uint8).reshape(1, 1, 4),),
    )


def sphere(radius: float) -> TexturedObject:
    return coloured(trimesh.creation.icosphere(subdivisions=5, radius=radius))


def quad(z: float, texture: npt.NDArray[np.uint8], shift: tuple[float, float] = (0, 0)) -> TexturedObject:
    """The square [-0.5, 0.5]^2 at z, facing +z, its upper left corner at texture coordinate (0, 0)."""
    corners = np.array([(-0.5, 0.5, z), (0.5, 0.5, z), (0.5, -0.5, z), (-0.5, -0.5, z)], dtype=np.float32)
    uv = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float32) + np.array(shift, dtype=np.float32)
    faces = np.array([(0, 3, 2), (0, 2, 1)], dtype=np.int32)
    return TexturedObject(
        vertices=corners, faces=faces, uv=uv[faces], material=np.zeros(2, dtype=np.int32), textures=(texture,)
    )


def both(first: TexturedObject, second: TexturedObject) -> TexturedObject:
    return TexturedObject(
        vertices=np.concatenate([first.vertices, second.vertices]),
        faces=np.concatenate([first.faces, second.faces + len(first.vertices)]),
        uv=np.concatenate([first.uv, second.uv]),
        material=np.concatenate([first.material, second.material + len(first.textures)]),
        textures=first.textures + second.textures,
    )


def four_texels(alpha: int = 255) -> npt.NDArray[np.uint8]:
    """Red, green above blue, white, 16 x 16 texels each; the red one may be a hole."""
    quarters = np.array([[(*RED, alpha), (*GREEN, 255)], [(*BLUE, 255), (*WHITE, 255)]], dtype=np.uint8)
    return quarters.repeat(16, axis=0).repeat(16, axis=1)


def glb(*meshes: trimesh.Trimesh, transform: Array | None = None) -> bytes:
    scene = trimesh.Scene()
    for mesh in meshes:
        scene.add_geometry(mesh, transform=transform)
    return bytes(scene.export(file_type="glb"))


def painted_quad(material: trimesh.visual.material.PBRMaterial) -> trimesh.Trimesh:
    source = quad(0.0, four_texels())
    # trimesh has v upwards.
    uv = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], dtype=float)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(source.vertices, source.faces, visual=visual, process=False)


def test_a_sphere_has_its_silhouette_depth_and_normals_in_every_view() -> None:
    radius, size = 0.75, 96
    views = render_views(sphere(radius), orbit(size_px=size))
    area = views.rgba[..., 3].sum(axis=(1, 2)) / 255 * (2 / size) ** 2
    assert area == pytest.approx(np.full(6, math.pi * radius**2), rel=0.005)
    assert views.depth[:, size // 2, size // 2] == pytest.approx(np.full(6, 2 - radius), abs=0.003)
    inside = views.rgba[..., 3] == 255
    y, x = np.mgrid[0:size, 0:size] + 0.5
    pixels = torch.tensor(np.stack([x, y], axis=-1), dtype=torch.float32).expand(6, -1, -1, -1)
    points = unproject(views.cameras, pixels, torch.from_numpy(views.depth)).numpy()
    normals = views.normals[inside]
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(len(normals)), abs=1e-5)
    # Away from the rim, where one pixel spans much depth.
    central = inside & (np.hypot(x - size / 2, y - size / 2) < 0.6 * size / 2 * radius)
    assert np.linalg.norm(points[central], axis=1) == pytest.approx(np.full(central.sum(), radius), abs=0.012)
    assert (views.normals[central] * points[central] / radius).sum(axis=1).min() > 0.995


def test_the_background_is_zero_everywhere() -> None:
    views = render_views(sphere(0.5), orbit((0.0,), size_px=32))
    outside = ~views.mask
    assert outside.any()
    assert not views.rgba[outside].any()
    assert not views.depth[outside].any()
    assert not views.normals[outside].any()
    assert (encode_normals(views.normals[outside]) == 128).all()
    assert (views.mask == (views.rgba[..., 3] > 0)).all()


def test_each_side_of_a_cube_shows_in_its_view() -> None:
    cube = trimesh.creation.box((1, 1, 1))
    obj = coloured(cube)
    sides = {"front": (0, 0, 1), "right": (1, 0, 0), "back": (0, 0, -1), "left": (-1, 0, 0)}
    colours = {"front": RED, "right": GREEN, "back": BLUE, "left": WHITE}
    textures = [np.array((*colours[s], 255), dtype=np.uint8).reshape(1, 1, 4) for s in sides]
    material = np.argmax(cube.face_normals @ np.array(list(sides.values()), dtype=float).T, axis=1)
    obj = TexturedObject(
        vertices=obj.vertices, faces=obj.faces, uv=obj.uv, material=material.astype(np.int32), textures=tuple(textures)
    )
    views = render_views(obj, orbit(size_px=64), light=ALBEDO)
    for side, normal in sides.items():
        view = VIEW_NAMES.index(side)
        assert views.rgba[view, 32, 32].tolist() == [*colours[side], 255]
        assert views.normals[view, 32, 32] == pytest.approx(normal, abs=1e-5)
        assert views.depth[view][views.mask[view]] == pytest.approx(np.full(32 * 32, 1.5), abs=1e-5)
    corner = views.rgba[VIEW_NAMES.index("front_right"), 32]
    # From 45 degrees the right side is on the right.
    assert corner[40, :3].tolist() == list(GREEN)
    assert corner[24, :3].tolist() == list(RED)


def test_coverage_is_counted_and_colours_are_not_mixed_with_the_background() -> None:
    # The edge at x = 0.5 falls in the middle of a column of samples' pixel: 33 px wide frames put 0.5 at 24.75 px.
    flat = np.full((1, 1, 4), 255, dtype=np.uint8)
    views = render_views(quad(0.0, flat), orbit((0.0,), size_px=33), light=ALBEDO, supersample=4)
    row = views.rgba[0, 16]
    assert row[24].tolist() == [255, 255, 255, round(255 * 3 / 4)]
    assert row[25].tolist() == [0, 0, 0, 0]


def test_depth_at_an_edge_is_the_nearest_not_a_mean() -> None:
    flat = np.full((1, 1, 4), 255, dtype=np.uint8)
    near = quad(0.5, flat)
    far = quad(-0.5, flat)
    far = far.with_vertices(far.vertices * np.array([2, 2, 1], dtype=np.float32))
    depth = render_views(both(near, far), orbit((0.0,), size_px=33)).depth
    assert set(np.unique(depth.round(4)).tolist()) == {1.5, 2.5}


def test_a_texture_stands_upright() -> None:
    views = render_views(quad(0.0, four_texels()), orbit((0.0,), size_px=64), light=ALBEDO)
    rgb = views.rgba[0, ..., :3]
    found = [tuple(rgb[y, x].tolist()) for y, x in ((20, 20), (20, 44), (44, 20), (44, 44))]
    assert found == [RED, GREEN, BLUE, WHITE]
    # The pixel left of the border has samples at 3/4 and 1/4 of a texel from it; bilinear, the latter is a quarter green.
    assert rgb[20, 31].astype(int) == pytest.approx([255 * 7 / 8, 255 / 8, 0], abs=1)


def test_texture_coordinates_repeat() -> None:
    cameras = orbit((0.0,), size_px=32)
    plain = render_views(quad(0.0, four_texels()), cameras)
    for shift in ((1.0, 0.0), (-3.0, 5.0)):
        shifted = render_views(quad(0.0, four_texels(), shift), cameras)
        assert np.abs(shifted.rgba.astype(int) - plain.rgba).max() <= 1


def test_a_hole_in_a_texture_shows_what_is_behind() -> None:
    behind = quad(-0.25, np.array((*WHITE, 255), dtype=np.uint8).reshape(1, 1, 4))
    views = render_views(both(quad(0.25, four_texels(alpha=0)), behind), orbit((0.0,), size_px=64), light=ALBEDO)
    assert views.rgba[0, 20, 20].tolist() == [*WHITE, 255]
    assert views.depth[0, 20, 20] == pytest.approx(2.25, abs=1e-4)
    assert views.rgba[0, 20, 44].tolist() == [*GREEN, 255]
    assert views.depth[0, 20, 44] == pytest.approx(1.75, abs=1e-4)
    alone = render_views(quad(0.25, four_texels(alpha=0)), orbit((0.0,), size_px=64))
    assert not alone.mask[0, 16:31, 16:31].any()
    assert alone.mask[0, 33:48, 33:48].all()


def test_back_faces_turn_their_normals_to_the_camera() -> None:
    views = render_views(quad(0.0, four_texels()), orbit((0.0, 180.0), size_px=32))
    assert views.normals[0, 16, 16] == pytest.approx((0, 0, 1), abs=1e-6)
    assert views.normals[1, 16, 16] == pytest.approx((0, 0, -1), abs=1e-6)


def test_light_is_fixed_in_the_world() -> None:
    light = Light(ambient=0.25, diffuse=0.5, direction=(0, 0, 3))
    grey = quad(0.0, np.array((200, 200, 200, 255), dtype=np.uint8).reshape(1, 1, 4))
    rgba = render_views(grey, orbit((0.0, 45.0, 180.0), size_px=32), light=light).rgba
    # 200 * (0.25 + 0.5) from the front and, the same surface, from the side; 200 * 0.25 on the far side.
    assert [int(rgba[i, 16, 16, 0]) for i in range(3)] == [150, 150, 50]


def test_rays_of_a_perspective_camera_meet_the_sphere() -> None:
    cameras = orbit((30.0,), size_px=48)
    perspective = type(cameras)(
        projection="perspective",
        world_from_camera=cameras.world_from_camera,
        focal_px=cameras.focal_px * 2,
        centre_px=cameras.centre_px,
        width_px=48,
        height_px=48,
    )
    views = render_views(sphere(0.5), perspective)
    # The outline is the tangent cone: tan = r / sqrt(d^2 - r^2), in pixels times the focal length.
    outline = 48 * 0.5 / math.sqrt(4 - 0.25)
    assert (views.rgba[0, ..., 3] / 255.0).sum() == pytest.approx(math.pi * outline**2, rel=0.01)
    assert views.depth[0, 24, 24] == pytest.approx(1.5, abs=0.003)


def test_a_glb_keeps_its_texture_and_its_transform() -> None:
    picture = Image.fromarray(four_texels()).convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    lifted = trimesh.transformations.translation_matrix((0, 0, 0.3))
    obj = load_object(glb(painted_quad(material), transform=lifted))
    views = render_views(obj, orbit((0.0,), size_px=64), light=ALBEDO)
    found = [tuple(views.rgba[0, y, x, :3].tolist()) for y, x in ((20, 20), (20, 44), (44, 20), (44, 44))]
    assert found == [RED, GREEN, BLUE, WHITE]
    assert views.depth[0, 32, 32] == pytest.approx(1.7, abs=1e-4)


def test_a_linear_factor_becomes_srgb() -> None:
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=(128, 255, 0, 255))
    views = render_views(load_object(glb(painted_quad(material))), orbit((0.0,), size_px=16), light=ALBEDO)
    assert views.rgba[0, 8, 8].tolist() == [188, 255, 0, 255]
    assert srgb_from_linear(np.array([0.0, 0.0031308, 0.5, 1.0, 2.0])).tolist() == [0, 10, 188, 255, 255]


def test_alpha_mode_mask_cuts_at_its_cutoff() -> None:
    texels = np.full((8, 8, 4), 255, dtype=np.uint8)
    texels[:, :4, 3] = 100
    for cutoff, solid in ((0.5, False), (0.3, True)):
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(texels), alphaMode="MASK", alphaCutoff=cutoff
        )
        mask = render_views(load_object(glb(painted_quad(material))), orbit((0.0,), size_px=32)).mask[0]
        assert mask[16, 20]
        assert mask[16, 11] == solid


def test_vertex_colours_are_kept() -> None:
    box = trimesh.creation.box((1, 1, 1))
    box.visual.vertex_colors = np.tile((255, 0, 0, 255), (len(box.vertices), 1))
    views = render_views(load_object(glb(box)), orbit((0.0,), size_px=16), light=ALBEDO)
    assert views.rgba[0, 8, 8].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize("data", [b"", b"glTF", b"not a model at all", glb(trimesh.creation.box())[:200]])
def test_a_broken_glb_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"GLB|triangles") as caught:
        load_object(data)
    assert "\n" not in str(caught.value)


def test_place_scales_the_front_to_three_quarters_and_centres_it() -> None:
    placed = place(coloured(trimesh.creation.box((1, 2, 0.5), trimesh.transformations.translation_matrix((5, -3, 7)))))
    assert np.abs(placed.vertices).max(axis=0) == pytest.approx((0.375, 0.75, 0.1875), abs=1e-5)


def test_place_turns_the_chosen_azimuth_to_the_front() -> None:
    obj = coloured(trimesh.creation.box((0.2, 1, 0.6)))
    assert np.ptp(place(obj, 90).vertices, axis=0) == pytest.approx((0.9, 1.5, 0.3), abs=1e-5)
    beacon = obj.with_vertices(obj.vertices + np.array([0, 0, 0], dtype=np.float32))
    beacon.vertices[0] = (3, 0, 0)
    # What stuck out towards +x now sticks out towards the viewer.
    assert place(beacon, 90).vertices[0, 2] == place(beacon, 90).vertices[:, 2].max()
    assert place(beacon, 270).vertices[0, 2] == place(beacon, 270).vertices[:, 2].min()


def test_place_keeps_deep_objects_inside_the_frame_from_every_side() -> None:
    placed = place(coloured(trimesh.creation.box((0.4, 0.5, 2))))
    assert np.linalg.norm(placed.vertices[:, [0, 2]], axis=1).max() == pytest.approx(FRAME_LIMIT, abs=1e-5)
    for azimuth in range(0, 180, 15):
        pixels, _ = project(orbit((float(azimuth),), size_px=2), torch.from_numpy(placed.vertices)[None])
        assert (pixels - 1).abs().max() <= FRAME_LIMIT + 1e-5


def test_place_leans_what_is_seen_from_above_and_upright_undoes_it() -> None:
    obj = coloured(trimesh.creation.box((0.6, 1, 0.2)))
    leaning = place(obj, 0, 30)
    top = obj.vertices[:, 1] > 0
    # Its top comes towards the viewer and its foot goes away.
    assert leaning.vertices[top, 2].mean() > 0.1 > leaning.vertices[~top, 2].mean()
    standing = leaning.vertices @ upright_from_front(30).T
    assert standing / np.ptp(standing[:, 1]) == pytest.approx(obj.vertices, abs=1e-5)


def test_place_ignores_vertices_without_a_face_and_refuses_points() -> None:
    obj = coloured(trimesh.creation.box((1, 1, 1)))
    stray = np.concatenate([obj.vertices, np.array([[50, 50, 50]], dtype=np.float32)])
    assert place(obj.with_vertices(stray)).vertices[:8] == pytest.approx(place(obj).vertices, abs=1e-5)
    with pytest.raises(InputError, match="no extent"):
        place(obj.with_vertices(np.zeros_like(obj.vertices)))


def entry(object_id: str, source: str) -> ObjectEntry:
    return ObjectEntry(id=object_id, split="train", source=source, path=Path("x.glb"), member=None, row={})


def test_fronts_begin_with_the_known_one_and_depend_on_object_and_seed_alone() -> None:
    chair, rock = entry("sh3d/chair", "sweethome3d-furniture"), entry("0ad/geology/rock", "0ad-data")
    assert front_azimuths(rock, fronts=1, seed=3) == (0.0,)
    drawn = front_azimuths(chair, fronts=4, seed=3)
    assert drawn[0] == 0.0
    assert len(set(drawn)) == 4
    assert all(0 <= a < 360 for a in drawn)
    assert drawn == front_azimuths(chair, fronts=4, seed=3) != front_azimuths(chair, fronts=4, seed=4)
    assert front_azimuths(rock, fronts=4, seed=3)[0] != 0.0
    assert front_azimuths(entry("0ad/fauna/dog", "0ad-data"), fronts=2, seed=0)[0] == 0.0


def test_raised_fronts_look_down_and_depend_on_object_and_seed_alone() -> None:
    chair = entry("sh3d/chair", "sweethome3d-furniture")
    drawn = raised_fronts(chair, raised=50, seed=3)
    azimuths, elevations = np.array(drawn).T
    assert 300 < np.ptp(azimuths) < 360
    assert 0 < elevations.min() < 5
    assert 35 < elevations.max() <= MOST_RAISED_DEG
    assert drawn == raised_fronts(chair, raised=50, seed=3) != raised_fronts(chair, raised=50, seed=4)
    assert drawn[:4] == raised_fronts(chair, raised=4, seed=3)


def test_lights_stay_in_their_cone_and_never_overexpose() -> None:
    axis = np.array(DEFAULT_LIGHT.direction) / np.linalg.norm(DEFAULT_LIGHT.direction)
    assert front_light(entry("a", "s"), 0, fronts=1, seed=0) == DEFAULT_LIGHT
    lights = [front_light(entry(f"o{i}", "s"), i, fronts=2, seed=0) for i in range(50)]
    cosines = [float(axis @ np.array(light.direction)) for light in lights]
    assert min(cosines) >= math.cos(math.radians(35)) - 1e-6
    assert np.mean(cosines) < 0.97
    assert all(light.ambient + light.diffuse == pytest.approx(1.0) for light in lights)


def test_safe_names_differ_where_ids_do() -> None:
    assert safe_name("sh3d/Scopia/chair") == "sh3d__Scopia__chair"
    assert len({safe_name(i) for i in ("a b", "a-b", "a?b", "../ab")}) == 4
    assert not safe_name("../../etc").startswith(".")


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    folder = tmp_path / "objects"
    (folder / "deep").mkdir(parents=True)
    (folder / "box.glb").write_bytes(glb(trimesh.creation.box((1, 2, 1))))
    (folder / "deep" / "ball.glb").write_bytes(glb(trimesh.creation.icosphere(subdivisions=2)))
    (folder / "broken.glb").write_bytes(b"glTF but not really")
    return folder


def test_a_folder_is_rendered_once_and_resumed(objects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "views"
    assert render_dataset(objects, out, size_px=24, fronts=2, png=True) == 2
    assert "refused broken" in capsys.readouterr().out
    tensors = load_file(out / "train" / "deep__ball.safetensors")
    assert {name: (t.dtype.name, t.shape) for name, t in tensors.items()} == {
        "rgba": ("uint8", (2, 6, 24, 24, 4)),
        "normal": ("uint8", (2, 6, 24, 24, 3)),
        "depth": ("float16", (2, 6, 24, 24)),
        "front_azimuth_deg": ("float32", (2,)),
        "front_elevation_deg": ("float32", (2,)),
    }
    assert not tensors["front_elevation_deg"].any()
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [(r["id"], r["file"]) for r in rows] == [
        ("box", "train/box.safetensors"),
        ("deep/ball", "train/deep__ball.safetensors"),
    ]
    specs = [CameraSpec.model_validate_json(json.dumps(row)) for row in json.loads((out / "cameras.json").read_text())]
    assert [s.name for s in specs] == list(VIEW_NAMES)
    with Image.open(out / "train" / "deep__ball" / "front_000.0" / "left_depth.png") as depth:
        assert np.asarray(depth)[12, 12] == pytest.approx((2 - 0.75) * DEPTH_STEPS, abs=0.01 * DEPTH_STEPS)
    (out / "train" / "box.safetensors").unlink()
    kept = (out / "train" / "deep__ball.safetensors").stat().st_mtime_ns
    assert render_dataset(objects, out, size_px=24, fronts=2) == 2
    assert (out / "train" / "deep__ball.safetensors").stat().st_mtime_ns == kept
    assert not list(out.rglob("*.part"))


def test_the_views_of_an_object_do_not_depend_on_the_others(objects: Path, tmp_path: Path) -> None:
    render_dataset(objects, tmp_path / "all", size_px=16, fronts=3)
    (objects / "box.glb").unlink()
    (objects / "broken.glb").unlink()
    render_dataset(objects, tmp_path / "one", size_px=16, fronts=3)
    name = "train/deep__ball.safetensors"
    assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_raised_fronts_follow_the_level_ones_and_show_the_top(objects: Path, tmp_path: Path) -> None:
    for out, raised in (("level", 0), ("raised", 2)):
        render_dataset(objects, tmp_path / out, size_px=16, fronts=2, raised=raised, png=bool(raised))
    level, both = (load_file(tmp_path / out / "train" / "box.safetensors") for out in ("level", "raised"))
    for name in ("depth", "normal", "front_azimuth_deg", "front_elevation_deg"):
        assert np.array_equal(both[name][:2], level[name])
    up = (both["normal"][:, 0, :, :, 1] > 160).any(axis=(1, 2))
    assert up.tolist() == [False, False, True, True]
    azimuth, elevation = both["front_azimuth_deg"][2], both["front_elevation_deg"][2]
    assert (tmp_path / "raised" / "train" / "box" / f"front_{azimuth:05.1f}_{elevation:04.1f}" / "back_rgba.png").is_file()


def test_another_size_in_the_same_folder_is_refused(objects: Path, tmp_path: Path) -> None:
    render_dataset(objects, tmp_path / "views", size_px=16, limit=1)
    with pytest.raises(InputError, match="another size"):
        render_dataset(objects, tmp_path / "views", size_px=32)


def test_folders_without_objects_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        list_objects(tmp_path / "missing")
    with pytest.raises(InputError, match="0 objects"):
        list_objects(tmp_path)
    (tmp_path / "index.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match="line 1"):
        list_objects(tmp_path)


def test_a_scanned_object_stands_up_and_keeps_its_texture(tmp_path: Path) -> None:
    """The layout of Google's scanned objects: +z up, the front towards -y, the texture in another folder."""
    meshes, textures = tmp_path / "Owl" / "meshes", tmp_path / "Owl" / "materials" / "textures"
    meshes.mkdir(parents=True)
    textures.mkdir(parents=True)
    corners = ((-1, 0, 0), (1, 0, 0), (1, 0, 2), (-1, 0, 2))
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    (meshes / "model.obj").write_text("\n".join([*lines, "mtllib model.mtl", "usemtl m", "f 1/1 2/2 3/3 4/4"]) + "\n")
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, :, 0] = pixels[1, :, 2] = 255
    Image.fromarray(pixels).save(textures / "texture.png")
    [entry] = list_objects(tmp_path)
    assert (entry.id, entry.split) == ("Owl", "train")
    found = load_object(entry.read())
    assert found.vertices[:, 1].min() == pytest.approx(0)
    assert found.vertices[:, 1].max() == pytest.approx(2)
    front = render_views(place(found), orbit((0.0,), size_px=32)).rgba[0]
    assert front[8, 16, 0] > front[8, 16, 2]
    assert front[24, 16, 2] > front[24, 16, 0]


def test_a_scan_in_an_stl_file_stands_up(tmp_path: Path) -> None:
    trimesh.creation.box(bounds=[[-1, -2, 0], [1, 2, 3]]).export(tmp_path / "box.stl")
    [entry] = list_objects(tmp_path)
    assert entry.id == "box"
    found = load_object(entry.read()).vertices
    assert np.allclose([found.min(0), found.max(0)], [[-1, 0, -2], [1, 3, 2]])
