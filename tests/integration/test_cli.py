"""The command line as a person uses it: the real commands, Prefect's embedded server, small stages in place of the models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, contents, picture, run, start, wait


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a batch was submitted once, with Prefect: two pictures and two that cannot be used."""
    folder = tmp_path_factory.mktemp("submitted")
    picture(folder / "birds/owl.png", 1)
    picture(folder / "birds/numerical cat.png", 2)
    (folder / "birds/text.png").write_text("no picture at all")
    (folder / "birds/empty.jpg").touch()
    ended = run("submit", "birds", "--json", cwd=folder)
    (folder / "first.out").write_text(ended.out)
    (folder / "first.err").write_text(ended.err)
    assert ended.code == 2, ended.err
    return folder


def test_json_is_one_document_on_stdout_and_problems_are_one_line_each(done: Path) -> None:
    report = json.loads((done / "first.out").read_text())
    assert (report["published"], report["refused"], report["failed"], report["exit_code"]) == (2, 2, 0, 2)
    assert {row["name"]: row["status"] for row in report["rows"]} == {
        "owl": "published",
        "numerical cat": "published",
        "text": "refused",
        "empty": "refused",
    }
    assert report["stages_computed"] == 12
    lines = (done / "first.err").read_text().splitlines()
    assert [sum(name in line for line in lines if line.startswith("refused: ")) for name in ("text.png", "empty.jpg")] == [1, 1]
    assert not any("Traceback" in line for line in lines)


def test_the_lineage_says_that_a_seed_was_changed_and_why(done: Path) -> None:
    document = json.loads((done / "assets/birds/numerical cat/asset.json").read_text())
    retries = {stage["name"]: stage["retries"] for stage in document["stages"] if stage["retries"]}
    assert retries == {"coarse_neus": ["seed 0 failed in coarse_neus: the level set is empty"]}
    assert document["ai_generated"] is True


def test_a_second_submit_computes_nothing_needs_no_server_and_changes_no_byte(done: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = {path: path.read_bytes() for path in (done / "assets/birds").rglob("*") if path.is_file()}
    settings = {"SMALL_LOG": str(log), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    ended = run("submit", "birds", "--json", cwd=done, settings=settings)
    assert (ended.code, ended.report()["stages_computed"], ended.report()["stages_found"]) == (2, 0, 12)
    assert log.read_text().splitlines() == ["prepare text.png"]
    assert {path: path.read_bytes() for path in (done / "assets/birds").rglob("*") if path.is_file()} == before


def test_status_show_and_verify(done: Path) -> None:
    assert run("status", "--json", cwd=done).report()["batches"] == [
        {"name": "birds", "published": 2, "refused": 2, "failed": 0, "reported": True}
    ]
    rows = run("status", "birds", "--json", cwd=done).report()["rows"]
    assert [row["name"] for row in rows] == ["empty", "numerical cat", "owl", "text"]
    shown = run("show", "owl", "--json", cwd=done).report()
    assert (shown["name"], shown["scores"]["front_iou"]) == ("owl", 0.97)
    assert Path(shown["preview"]).is_file()
    assert "multiview" in run("show", "birds/owl", cwd=done).out
    assert run("verify", cwd=done).out == "2 assets, all whole\n"


def test_verify_finds_a_flipped_byte_and_the_next_submit_repairs_it(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    whole = contents(folder / "assets")
    mesh = folder / "assets/birds/owl/mesh.glb"
    data = mesh.read_bytes()
    mesh.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    blob = max((folder / "assets/.store/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"!" + blob.read_bytes()[1:])
    ended = run("verify", "birds", cwd=folder)
    assert ended.code == 3
    assert "birds/owl/mesh.glb" in ended.err
    assert blob.name in ended.err
    assert run("submit", "birds", "--json", cwd=folder, settings={"SMALL_PLAIN": "1"}).code == 2
    assert run("verify", cwd=folder).code == 0
    assert contents(folder / "assets") == whole


def test_a_table_is_printed_and_prefect_and_torch_say_nothing(done: Path) -> None:
    ended = run("submit", "birds", cwd=done)
    assert ended.code == 2
    assert "2 published, 2 refused" in ended.out
    assert "0 stages computed, 12 found done" in ended.out
    assert len(ended.err.splitlines()) == 2


def test_passing_trouble_is_tried_again_and_a_bug_is_one_line(tmp_path: Path) -> None:
    picture(tmp_path / "in/transient.png", 1)
    picture(tmp_path / "in/bug.png", 2)
    ended = run("submit", "in", "--json", "--name", "both", cwd=tmp_path)
    report = ended.report()
    assert (ended.code, report["exit_code"]) == (1, 1)
    assert {row["name"]: row["status"] for row in report["rows"]} == {"transient": "published", "bug": "failed"}
    assert "transient: multiview: the network went away" in ended.err
    assert "Traceback" not in ended.err
    assert "KeyError" in ended.err


def test_two_submits_of_the_same_batch_at_once_agree(tmp_path: Path) -> None:
    for shade, name in enumerate(("a", "b", "c")):
        picture(tmp_path / f"in/{name}.png", shade)
    both = [start("submit", "in", "--json", cwd=tmp_path, settings={"SMALL_DELAY_S": "0.1"}) for _ in range(2)]
    ended = [wait(process) for process in both]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert [one.report()["published"] for one in ended] == [3, 3]
    assert run("verify", cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["submit", "missing"], 2, "missing: there is no such file or folder"),
        (["submit", "nothing"], 2, "nothing: no picture in this folder"),
        (["submit", "in", "--preset", "huge"], 2, "unknown preset 'huge'"),
        (["submit", "in", "--store", "ftp://x/y"], 2, "unknown scheme"),
        (["submit", "in", "--name", "../up"], 2, "--name"),
        (["submit", "in", "--assets", "file"], 2, "file"),
        (["status", "--assets", "none"], 2, "no batch"),
        (["show", "owl"], 2, "in no batch"),
        (["verify", "birds"], 2, "no batch 'birds'"),
        (["deploy", "--cron", "0 * * * *", "--inbox", "in"], 2, "PREFECT_API_URL"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    picture(tmp_path / "in/owl.png")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("in the way")
    ended = run(*arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_help_and_version(tmp_path: Path) -> None:
    assert "submit" in run("--help", small=False, cwd=tmp_path).out
    assert run("--version", small=False, cwd=tmp_path).out.startswith("img2mesh ")


def test_presets_and_doctor(tmp_path: Path) -> None:
    presets = {row["name"]: row["usable"] for row in run("presets", "--json", small=False, cwd=tmp_path).report()["presets"]}
    assert presets == {"compact": "yes", "tiny": "yes", "wonder3d": "no"}
    findings = {row["what"]: row for row in run("doctor", "--json", small=False, cwd=tmp_path).report()["findings"]}
    assert findings["store"]["ok"]
    assert {"machine", "GPU", "weights", "matting", "Prefect", "torch"} <= set(findings)


def test_bad_pictures_are_refused_and_the_good_ones_go_on_whatever_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    owl = picture(folder / "owl.png", side_px=128).read_bytes()
    (folder / "truncated.png").write_bytes(owl[: len(owl) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "zero.png").touch()
    names = ("with space", "..", "-dash", "Käuzchen 梟")
    for number, name in enumerate(names):
        picture(folder / f"{name}.png", number + 1)
    # A hidden file is taken only when it is named itself; a name with a leading dash needs a `./`, or the folder, before it.
    ended = run("submit", "in", "in/...png", "--name", "in", "--json", cwd=tmp_path, settings={"SMALL_PLAIN": "1"})
    rows = {row["file"].removeprefix("in/"): row for row in ended.report()["rows"]}
    assert ended.code == 2
    assert {file for file, row in rows.items() if row["status"] == "refused"} == {"truncated.png", "text.png", "zero.png"}
    published = {row["name"] for row in rows.values() if row["status"] == "published"}
    assert published == {"owl", "with space", "image", "dash", "Käuzchen 梟"}
    assert {path.name for path in (tmp_path / "assets/in").iterdir()} == published | {"batch.json"}


def test_an_unreadable_file_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    picture(tmp_path / "in/owl.png", 1)
    picture(tmp_path / "in/secret.png", 2).chmod(0)
    ended = run("submit", "in", "--json", cwd=tmp_path, settings={"SMALL_PLAIN": "1"}, privileged=False)
    assert ended.code == 2, ended.err
    assert [row["status"] for row in ended.report()["rows"]] == ["published", "refused"]
    assert "in/secret.png: cannot be read (permission denied)" in ended.err


def test_a_read_only_assets_folder_is_one_line_before_anything_is_computed(tmp_path: Path) -> None:
    picture(tmp_path / "in/owl.png")
    (tmp_path / "assets").mkdir(mode=0o555)
    log = tmp_path / "log"
    ended = run("submit", "in", cwd=tmp_path, settings={"SMALL_PLAIN": "1", "SMALL_LOG": str(log)}, privileged=False)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert "permission denied" in ended.err
    assert not log.exists()


def test_stray_output_of_libraries_does_not_reach_stdout(tmp_path: Path) -> None:
    picture(tmp_path / "in/owl.png")
    site = tmp_path / "site"
    site.mkdir()
    loud = "import atexit, os\nfrom flows import submit\nimport small_cli as s\n"
    (site / "loud.py").write_text(
        loud
        + "steps = s.steps\ndef talk(*, seed):\n    print('python talks')\n    os.system('echo a child talks')\n"
        + "    return steps(seed=seed)\ns.steps = talk\ns.main()\n"
    )
    command = ["submit", "in", "--json", "--name", "loud"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests", "SMALL_PLAIN": "1"}
    ended = subprocess.run(
        [sys.executable, str(site / "loud.py"), *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout)["published"] == 1
    assert "python talks" in ended.stderr
    assert "a child talks" in ended.stderr
