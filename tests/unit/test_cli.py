"""Names, requests, the walk of one image, reports: the flows without Prefect and without a terminal."""

import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from flows.assets import AssetDocument, open_assets
from flows.inbox import Inbox, batch_name, collect, safe_name
from flows.reconstruct import Event, Walk, failure_key, find_done
from flows.report import Progress, Timing, duration
from flows.submit import Job, Outcome, Report, Request, submit
from flows.verify import damages
from img2mesh.errors import ArtifactError, InputError, NumericalError, TransientError
from img2mesh.manifests import SourceImage
from img2mesh.storage import Store, blob_key, open_store
from tests.small_cli import in_a_loop, steps


def picture(path: Path, shade: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (8, 8), (shade, 20, 30, 255)).save(path, "PNG")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def collected(store: Store, *paths: Path | str) -> Inbox:
    return collect([str(path) for path in paths], store)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owl", "owl"),
        ("my owl", "my owl"),
        ("..", "image"),
        ("../../etc/passwd", "etc-passwd"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("Käuzchen", "Käuzchen"),
        ("Ka\u0308uzchen", "Käuzchen"),
        ("梟", "梟"),
        ("a/b\\c:d", "a-b-c-d"),
        ("new\nline", "new-line"),
        ("trailing. . ", "trailing"),
        ("", "image"),
    ],
)
def test_names_are_harmless(text: str, expected: str) -> None:
    assert safe_name(text) == expected


def test_names_are_short_enough_for_every_file_system() -> None:
    assert len(safe_name("梟" * 200).encode()) <= 120
    assert safe_name("梟" * 200) == "梟" * 40


def test_two_pictures_of_one_stem_get_their_suffix_whatever_the_order(tmp_path: Path, store: Store) -> None:
    first, second = picture(tmp_path / "in/owl.png"), picture(tmp_path / "in/owl.webp")
    names = {item.file: item.name for item in collected(store, first, second).items}
    assert names == {str(first): "owl-png", str(second): "owl-webp"}
    assert names == {item.file: item.name for item in collected(store, second, first).items}


def test_pictures_of_one_name_in_two_folders_get_their_digest(tmp_path: Path, store: Store) -> None:
    picture(tmp_path / "in/a/owl.png", 1), picture(tmp_path / "in/b/owl.png", 2)
    items = collected(store, tmp_path / "in").items
    assert {item.name for item in items} == {f"owl-png-{item.source.image.sha256[:8]}" for item in items if item.source}
    assert len({item.name for item in items}) == 2


def test_names_that_differ_in_case_alone_are_kept_apart(tmp_path: Path, store: Store) -> None:
    picture(tmp_path / "in/Owl.png", 1), picture(tmp_path / "in/owl.jpg", 2)
    assert {item.name.casefold() for item in collected(store, tmp_path / "in").items} == {"owl-png", "owl-jpg"}


def test_the_same_file_twice_is_one_picture(tmp_path: Path, store: Store) -> None:
    owl = picture(tmp_path / "in/owl.png")
    assert [item.name for item in collected(store, owl, owl, tmp_path / "in").items] == ["owl"]


def test_folders_are_searched_without_hidden_ones_and_without_the_assets(tmp_path: Path, store: Store) -> None:
    for name in ("a.png", "deep/er/b.JPG", ".hidden/c.png", ".d.png", "assets/e.png", "notes.txt"):
        picture(tmp_path / "in" / name)
    inbox = collect([str(tmp_path / "in")], store, exclude=[str(tmp_path / "in/assets")])
    assert ([item.name for item in inbox.items], inbox.ignored) == (["a", "b"], 1)


def test_a_file_that_is_named_itself_is_taken_whatever_its_suffix(tmp_path: Path, store: Store) -> None:
    assert [item.name for item in collected(store, picture(tmp_path / "owl.picture")).items] == ["owl"]


def test_what_cannot_be_read_is_refused_and_the_rest_goes_on(tmp_path: Path, store: Store) -> None:
    (tmp_path / "empty.png").touch()
    inbox = collected(store, tmp_path / "missing.png", tmp_path / "empty.png", picture(tmp_path / "owl.png"))
    refusals = {item.name: str(item.refusal) for item in inbox.items if item.refusal}
    assert set(refusals) == {"missing.png", "empty"}
    assert "no such file" in refusals["missing.png"]
    assert "0 bytes" in refusals["empty"]
    assert [item.name for item in inbox.items if item.source] == ["owl"]


@pytest.mark.parametrize("path", ["missing", "empty", "ftp://host/x"])
def test_nothing_to_do_is_an_error(tmp_path: Path, store: Store, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=path.split(":", maxsplit=1)[0]):
        collected(store, path)


def test_a_file_name_may_hold_any_bytes(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    os.rename(picture(tmp_path / "owl.png"), os.fsencode(folder) + b"/\xff\xfe.png")
    (item,) = collected(store, folder).items
    assert item.source is not None
    assert item.source.model_dump_json()
    assert item.file.encode()


def test_the_batch_is_named_after_the_only_folder(tmp_path: Path) -> None:
    (tmp_path / "my birds").mkdir()
    assert batch_name([str(tmp_path / "my birds")]) == "my birds"
    assert batch_name([str(tmp_path / "my birds/")]) == "my birds"
    assert batch_name(["s3://bucket/birds/today/"]) == "today"
    assert batch_name(["s3://bucket"]) == "bucket"
    assert batch_name(["a.png", "b.png"]) == "batch"


def test_a_request_has_its_defaults_and_refuses_names_that_climb() -> None:
    request = Request.of(["in.png"], assets="s3://bucket/assets/")
    assert (request.store, request.name, request.seed) == ("s3://bucket/assets/.store", "batch", 0)
    for name in ("../up", "a/b", "", "-x", ".hidden"):
        with pytest.raises(InputError, match="--name"):
            Request.of(["in.png"], name=name)
    with pytest.raises(InputError):
        Request.of([])


def walk(store: Store, name: str, events: list[Event] | None = None, *, seed: int = 0) -> Walk:
    buffer = BytesIO()
    Image.new("RGBA", (4, 4)).save(buffer, "PNG")
    return Walk(
        image=name,
        source=SourceImage(name=name, image=store.put_blob(buffer.getvalue(), "image/png")),
        pipeline=steps(seed=seed),
        store=store,
        run_stage=lambda stage, inputs, params: stage.result(inputs, params, store),
        listen=(events if events is not None else []).append,
    )


def test_a_walk_passes_every_stage_once_and_a_second_one_finds_them(store: Store) -> None:
    events: list[Event] = []
    first, second = walk(store, "owl", events)(), walk(store, "owl")()
    assert [passed.cached for passed in first.passed] == [False] * 6
    assert [passed.cached for passed in second.passed] == [True] * 6
    assert [passed.record for passed in first.passed] == [passed.record for passed in second.passed]
    assert [event.phase for event in events] == ["start", "done"] * 6
    assert first.passed[1].record.weights == {"small": "0" * 64}


def test_a_numerical_error_is_tried_once_with_the_next_seed_and_the_lineage_says_why(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("SMALL_LOG", str(log))
    done = walk(store, "numerical")()
    record = done.passed[2].record
    assert (record.params["seed"], record.retries) == (1, ("seed 0 failed in coarse_neus: the level set is empty",))
    assert [line.split()[0] for line in log.read_text().splitlines()].count("coarse_neus") == 2
    log.write_text("")
    again = find_done(walk(store, "numerical"))
    assert again is not None
    assert [passed.record for passed in again.passed] == [passed.record for passed in done.passed]
    assert log.read_text() == ""


def test_a_numerical_error_of_a_stage_without_a_seed_goes_back_to_the_nearest_with_one(store: Store) -> None:
    pipeline = steps(seed=0)
    stage, params = pipeline[5]
    seeds: list[object] = []

    def picky(inputs: object, params: object, store: Store) -> object:
        seeds.append(inputs)
        if len(seeds) == 1:
            raise NumericalError("no surface")
        return stage.run(inputs, params, store)

    pipeline[5] = (replace(stage, run=picky), params)
    done = replace(walk(store, "owl"), pipeline=pipeline)()
    assert [passed.record.params.get("seed") for passed in done.passed] == [None, 0, 0, 0, 1, None]
    assert done.passed[4].record.retries == ("seed 0 failed in export_mesh: no surface",)


def test_a_second_numerical_error_ends_the_image_and_is_computed_again_next_time(store: Store) -> None:
    pipeline = steps(seed=0)
    stage, params = pipeline[2]
    runs: list[int] = []

    def fail(inputs: object, params: object, store: Store) -> object:
        runs.append(1)
        raise NumericalError("never any surface")

    pipeline[2] = (replace(stage, run=fail), params)
    for expected in (2, 3):
        with pytest.raises(NumericalError, match="never"):
            replace(walk(store, "owl"), pipeline=pipeline)()
        assert len(runs) == expected


def test_a_blob_that_rots_on_the_way_is_computed_anew_once(store: Store) -> None:
    first = walk(store, "owl")()
    prepared = first.asset.source.source.source
    rotten: list[str] = []

    def run(stage: object, inputs: object, params: object) -> object:
        if stage.name == "refit_neus" and not rotten:  # type: ignore[attr-defined]
            rotten.append("views")
            store.write(blob_key(prepared.views), b"rotten")
            raise ArtifactError("views are rotten")
        return stage.result(inputs, params, store)  # type: ignore[attr-defined]

    done = replace(walk(store, "owl"), run_stage=run)()
    assert [passed.cached for passed in done.passed] == [True, True, False, True, True, True]
    assert done.asset == first.asset
    assert store.get_blob(prepared.views)


def test_no_failure_is_remembered_under_another_key(store: Store) -> None:
    walk(store, "numerical")()
    (key,) = store.list("failures/")
    stage, params = steps(seed=0)[2]
    inputs = walk(store, "numerical")().asset.source.source.source.source
    assert key == failure_key(stage, inputs, params)


def submitted(tmp_path: Path, *paths: Path, name: str = "birds", run: bool = True) -> Report:
    def none(job: Job, items: Sequence[object]) -> list[Outcome]:
        raise AssertionError("nothing was to be computed")

    request = Request.of([str(path) for path in paths], assets=str(tmp_path / "assets"), name=name)
    return submit(request, steps(seed=0), run_pending=in_a_loop if run else none)


def files_below(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in found if "/." not in str(path.relative_to(folder.parent))
    }


def test_a_submit_publishes_and_the_second_one_changes_and_computes_nothing(tmp_path: Path) -> None:
    owl, cat = picture(tmp_path / "owl.png", 1), picture(tmp_path / "cat.png", 2)
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    first = submitted(tmp_path, owl, cat, bad)
    files = files_below(tmp_path / "assets")
    assert (first.exit_code, first.count("published"), first.count("refused")) == (2, 2, 1)
    assert set(files) == {"birds/batch.json"} | {
        f"birds/{name}/{file}" for name in ("cat", "owl") for file in ("asset.json", "mesh.glb", "mesh.obj", "preview.png")
    }
    second = submitted(tmp_path, owl, cat, bad, run=False)
    assert (second.exit_code, second.stages(cached=False), second.stages(cached=True)) == (2, 0, 12)
    assert files_below(tmp_path / "assets") == files


def test_the_asset_carries_its_lineage(tmp_path: Path) -> None:
    submitted(tmp_path, picture(tmp_path / "owl.png"))
    document = open_assets(str(tmp_path / "assets")).document("birds", "owl")
    assert (document.ai_generated, document.input_file, document.seed) == (True, "owl.png", 0)
    assert [record.name for record in document.stages] == [stage.name for stage, _ in steps(seed=0)]
    assert all(len(record.key) == 64 for record in document.stages)
    assert set(document.files) == {"mesh.glb", "mesh.obj", "preview.png"}


def test_another_picture_of_the_same_name_replaces_the_asset_as_a_whole(tmp_path: Path) -> None:
    submitted(tmp_path, picture(tmp_path / "owl.png", 1))
    before = files_below(tmp_path / "assets")
    submitted(tmp_path, picture(tmp_path / "owl.png", 2))
    after = files_below(tmp_path / "assets")
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before if name.startswith("birds/owl/"))
    assert list(damages(open_assets(str(tmp_path / "assets")), open_store(str(tmp_path / "assets/.store")), ["birds"])) == []


def test_a_later_submit_adds_to_the_batch(tmp_path: Path) -> None:
    submitted(tmp_path, picture(tmp_path / "owl.png", 1), tmp_path / "missing.png")
    submitted(tmp_path, picture(tmp_path / "cat.png", 2))
    report = open_assets(str(tmp_path / "assets")).batch("birds")
    assert report is not None
    assert [(row.name, row.status) for row in report.rows] == [("cat", "published"), ("owl", "published")]


@pytest.mark.parametrize("damage", ["mesh", "document", "batch", "missing", "extra blob", "manifest", "store gone"])
def test_verify_names_the_damage_and_the_next_submit_repairs_it(tmp_path: Path, damage: str) -> None:
    owl = picture(tmp_path / "owl.png")
    submitted(tmp_path, owl)
    assets, store = open_assets(str(tmp_path / "assets")), open_store(str(tmp_path / "assets/.store"))
    files = files_below(tmp_path / "assets")
    manifest = next(key for key in store.list("manifests/") if "refit" in key)
    targets = {
        "mesh": (assets.objects, "birds/owl/mesh.glb"),
        "document": (assets.objects, "birds/owl/asset.json"),
        "batch": (assets.objects, "birds/batch.json"),
        "missing": (assets.objects, "birds/owl/mesh.obj"),
        "extra blob": (store, next(iter(store.list("blobs/")))),
        "manifest": (store, manifest),
        "store gone": (store, manifest),
    }
    objects, key = targets[damage]
    data = objects.read(key)
    assert data is not None
    if damage in ("missing", "store gone"):
        objects.delete(key)
    else:
        objects.write(key, data[:20] + bytes([data[20] ^ 1]) + data[21:])
    found = list(damages(assets, store, ["birds"]))
    assert any(key.split("/")[-1][:12] in line for line in found), found
    submitted(tmp_path, owl)
    assert list(damages(assets, store, ["birds"])) == []
    repaired = files_below(tmp_path / "assets")
    meshes = [name for name in files if name.endswith((".glb", ".obj", ".png"))]
    assert [repaired[name] for name in meshes] == [files[name] for name in meshes]


def test_a_bug_is_told_in_one_line_with_its_traceback_in_the_store(tmp_path: Path) -> None:
    report = submitted(tmp_path, picture(tmp_path / "bug.png"), picture(tmp_path / "owl.png", 2))
    assert (report.exit_code, report.count("failed"), report.count("published")) == (1, 1, 1)
    row = next(outcome.row() for outcome in report.outcomes if outcome.item.name == "bug")
    assert row.reason is not None
    assert "KeyError" in row.reason
    assert "\n" not in row.reason
    store = open_store(str(tmp_path / "assets/.store"))
    assert b"nobody thought of this" in (store.read(next(iter(store.list("runs/")))) or b"")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], 0),
        ([InputError("x")], 2),
        ([InputError("x"), NumericalError("x")], 4),
        ([NumericalError("x"), ArtifactError("x")], 3),
        ([TransientError("x"), ArtifactError("x"), InputError("x")], 75),
        ([KeyError("x"), TransientError("x")], 1),
    ],
)
def test_the_exit_code_is_that_of_the_error_to_act_on_first(tmp_path: Path, errors: list[Exception], expected: int) -> None:
    report = submitted(tmp_path, picture(tmp_path / "owl.png"))
    item = report.outcomes[0].item
    outcomes = tuple(Outcome(item=item, error=error) for error in errors) + report.outcomes
    request = report.request
    assert (
        Report(request=request, assets_uri="a", store_uri="s", outcomes=outcomes, ignored=0, seconds=0.0).exit_code == expected
    )


def test_time_left_comes_from_the_times_seen() -> None:
    timing = Timing(["prepare", "decode", "other"])
    assert timing.left_s(None) == pytest.approx(1 + 2 + 10)
    timing.saw("prepare", 4.0)
    timing.saw("prepare", 6.0)
    timing.saw("decode", 1.0)
    assert timing.left_s(None) == pytest.approx(5 + 1 + 10)
    assert timing.left_s("prepare", 3.0) == pytest.approx(2 + 1 + 10)
    assert timing.left_s("other", 99.0) == 0
    assert [duration(seconds) for seconds in (3.2, 89, 90, 6000)] == ["3 s", "89 s", "2 min", "1.7 h"]


def test_an_asset_document_survives_being_written(tmp_path: Path) -> None:
    submitted(tmp_path, picture(tmp_path / "owl.png"))
    document = open_assets(str(tmp_path / "assets")).document("birds", "owl")
    assert AssetDocument.model_validate_json(document.model_dump_json()) == document


def test_progress_says_what_happens_and_how_long_it_will_take() -> None:
    out = StringIO()
    progress = Progress(["prepare", "decode"], Console(file=out, width=100))
    with progress:
        progress(Event(image="done", stage="prepare", phase="cached", seconds=1.0))
        progress(Event(image="done", stage="decode", phase="cached", seconds=1.0))
        progress.expect(2)
        progress(Event(image="owl", stage="prepare", phase="start"))
        progress(Event(image="owl", stage="prepare", phase="done", seconds=4.0))
        # Two seconds of decoding for this one, four and two for the next.
        assert progress.left_s() == pytest.approx(2 + 4 + 2)
        progress(Event(image="cat", stage="prepare", phase="start"))
        progress(Event(image="cat", stage="prepare", phase="retry", detail="the network went away"))
    assert out.getvalue().splitlines() == ["owl: prepare 4.0 s", "cat: prepare: the network went away"]
    live = StringIO()
    Console(file=live, width=100).print(progress.table())
    rows = [line.split() for line in live.getvalue().splitlines()]
    assert rows[1:4] == [["done", "found", "found"], ["owl", "4.0", "s", "stopped"], ["cat", *rows[3][1:]]]
