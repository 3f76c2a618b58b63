"""Every image does its work offline, as nobody special, on a root that cannot be written."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import img2mesh
from flows.launch import in_container, in_process
from flows.reconstruct import stages_of
from img2mesh import codec, presets
from img2mesh.errors import InputError, TransientError
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.manifests import AlignedViews, CoarseGeometry, Model, MultiviewLatents, PreparedImage, SourceImage
from img2mesh.neus.config import FitConfig, Nerfstudio
from img2mesh.storage import Store, open_store
from stages import prepare, refit_neus
from tests.command import picture
from tests.containers.conftest import NOBODY_SPECIAL, ROOT, owned, podman

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3000)]
CONFINED = ("--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")


@pytest.mark.usefixtures("one_thread")
def test_all_stages_publish_in_containers_what_they_publish_in_this_process(
    image: Callable[[str], str], tmp_path: Path
) -> None:
    for family in ("torch", "mesh"):
        image(family)
    here, there = open_store(str(tmp_path / "here")), open_store(str(tmp_path / "there"))
    data = (ROOT / "examples/images/armchair.png").read_bytes()
    source: Model = SourceImage(name="armchair", image=here.put_blob(data, "image/png"))
    there.put_blob(data, "image/png")
    owned(tmp_path / "there")
    inputs = [source, source]
    for stage, params in stages_of(presets.tiny(), seed=0, formats=("glb",)):
        results = [
            in_process(stage, inputs[0], params, here),
            in_container("podman", stage, inputs[1], params, there),
        ]
        assert [one.cached for one in results] == [False, False]
        assert results[0].outputs == results[1].outputs, stage.name
        assert results[0].publication.key == results[1].publication.key
        assert in_container("podman", stage, inputs[1], params, there).cached
        inputs = [one.outputs for one in results]
    keys = [sorted(key for key in store.list() if key.startswith(("blobs/", "manifests/"))) for store in (here, there)]
    assert keys[0] == keys[1]
    assert {path.stat().st_uid for path in (tmp_path / "there/manifests").rglob("*")} == {NOBODY_SPECIAL}


def test_nerfstudio_fits_a_surface_in_its_container(image: Callable[[str], str], tmp_path: Path) -> None:
    """Two steps of tiny networks: what is shown is that everything they need is in the image, without a network."""
    image("nerfstudio")
    store = open_store(str(tmp_path / "store"))
    aligned = views_of_a_ball(store)
    owned(tmp_path / "store")
    config = FitConfig(method="nerfstudio-neus-facto", resolutions=(24,), nerfstudio=Nerfstudio(steps=2, rays=32, width=16))
    made = in_container("podman", refit_neus.STAGE, aligned, refit_neus.Params(fit=config), store)
    sdf = codec.get_tensors(store, made.outputs.field)["sdf"]
    # Nerfstudio's networks begin as a ball.
    assert sdf.shape == (24, 24, 24)
    assert sdf[12, 12, 12] < 0
    assert bool((sdf[[0, 0, -1, -1], [0, -1, 0, -1], 0] > 0).all())


def views_of_a_ball(store: Store) -> AlignedViews:
    """Six grey views of a ball of radius a half, 32 pixels wide, and manifests of stages that have not run."""
    cameras = orbit(size_px=32)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    alpha = (x**2 + y**2 < 0.25).float().expand(len(cameras), -1, -1)
    rgb = (1 - alpha / 2)[:, None].expand(-1, 3, -1, -1)
    normals = -cameras.world_from_camera[:, :3, 2][:, :, None, None] * alpha[:, None]
    blob = codec.put_views(store, Views(cameras=cameras, rgb=rgb, alpha=alpha, normals=normals))
    source = SourceImage(name="ball", image=blob)
    prepared = PreparedImage(source=source, image=blob, matting="alpha", matting_confidence=1.0)
    latents = MultiviewLatents(source=prepared, latents=blob, cameras=codec.specs_from_cameras(cameras))
    return AlignedViews(source=CoarseGeometry(source=latents, views=blob, depth=blob), views=blob)


def test_an_error_in_a_container_keeps_its_class_and_message(image: Callable[[str], str], tmp_path: Path) -> None:
    image("torch")
    store = open_store(str(tmp_path / "store"))
    source = SourceImage(name="text.png", image=store.put_blob(b"no picture", "image/png"))
    owned(tmp_path / "store")
    params = prepare.Params.of(presets.get("tiny"), seed=0)
    with pytest.raises(InputError, match=r"text\.png: this is no readable PNG"):
        in_container("podman", prepare.STAGE, source, params, store)


def test_an_image_that_is_not_there_is_one_line(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMG2MESH_REGISTRY", "localhost/no-such-")
    store = open_store(str(tmp_path / "store"))
    source = SourceImage(name="owl.png", image=store.put_blob(picture(tmp_path / "owl.png").read_bytes(), "image/png"))
    with pytest.raises(TransientError, match="could not be started in its container") as caught:
        in_container("podman", prepare.STAGE, source, prepare.Params.of(presets.get("tiny"), seed=0), store)
    assert "\n" not in str(caught.value)


def test_the_orchestrator_commands_without_torch(image: Callable[[str], str]) -> None:
    name = image("orchestrator")
    assert podman("run", *CONFINED, name, "--version").stdout == f"img2mesh {img2mesh.__version__}\n"
    code = "import flows.batch, os, importlib.util as u; print(os.getuid(), u.find_spec('torch'), u.find_spec('open3d'))"
    said = podman("run", *CONFINED, "--env=HOME=/tmp", "--entrypoint=python", name, "-c", code).stdout
    assert said.split() == [str(NOBODY_SPECIAL), "None", "None"]


def test_the_object_store_and_the_database_start(image: Callable[[str], str]) -> None:
    store = podman("run", *CONFINED, image("objectstore"), "version").stdout
    assert "4.48" in store
    database = image("postgres")
    script = "serve-postgres & for i in $(seq 200); do pg_isready -h 127.0.0.1 -U prefect && exec true; sleep 0.2; done; exit 1"
    settings: Mapping[str, str] = {"POSTGRES_USER": "prefect", "POSTGRES_DB": "prefect", "POSTGRES_PASSWORD": "planted"}
    options = [*(f"--env={key}={value}" for key, value in settings.items()), "--entrypoint=sh"]
    assert "accepting connections" in podman("run", *CONFINED, *options, database, "-c", script).stdout


@pytest.mark.parametrize("family", ["torch", "mesh", "nerfstudio", "orchestrator", "objectstore", "postgres"])
def test_images_are_labelled_and_carry_no_weights(image: Callable[[str], str], family: str) -> None:
    name = image(family)
    shown = podman("image", "inspect", "--format", "{{.User}} {{json .Labels}}", name).stdout
    assert shown.startswith("10001 ")
    assert f'"org.opencontainers.image.version":"{img2mesh.__version__}"' in shown
    held = podman(
        "run", *CONFINED, "--entrypoint=sh", name, "-c", "find / -name '*.safetensors' -not -path '/proc/*' 2>/dev/null; true"
    )
    assert [line for line in held.stdout.splitlines() if "/img2mesh/" in line] == []
