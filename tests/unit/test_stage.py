"""The stage contract: keys, hits, publication last and once, and the command line of a stage."""

import json
from pathlib import Path

import pytest

from img2mesh.errors import ArtifactError, InputError, NumericalError
from img2mesh.manifests import Blob, Model, PreparedImage, SourceImage
from img2mesh.stage import Publication, Stage, canonical_json, main, own_blobs, read_publication, sha256_hex
from img2mesh.storage import Store, blob_key, manifest_key, open_store


class Params(Model):
    """For the stage below."""

    colour: str = "red"
    fail: bool = False


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def source(store: Store) -> SourceImage:
    return SourceImage(name="owl.png", image=store.put_blob(b"owl", "image/png"))


class Paint:
    """Counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, inputs: SourceImage, params: Params, store: Store) -> PreparedImage:
        self.runs += 1
        if params.fail:
            raise NumericalError("no paint left")
        picture = store.put_blob(store.get_blob(inputs.image) + params.colour.encode(), "image/png")
        return PreparedImage(source=inputs, image=picture, matting="alpha", matting_confidence=0.5)


def stage_of(paint: Paint, *, name: str = "paint", version: int = 1) -> Stage[SourceImage, Params, PreparedImage]:
    return Stage(name=name, version=version, inputs=SourceImage, params=Params, outputs=PreparedImage, run=paint)


def test_the_second_call_finds_what_the_first_published(store: Store, source: SourceImage) -> None:
    paint = Paint()
    stage = stage_of(paint)
    first = stage.result(source, Params(), store)
    second = stage.result(source, Params(), store)
    assert (paint.runs, first.cached, second.cached) == (1, False, True)
    assert first.outputs == second.outputs
    assert first.publication == second.publication


def test_the_key_is_the_digest_of_name_version_inputs_and_params(source: SourceImage) -> None:
    written = (
        '{"inputs":{"image":{"media_type":"image/png","sha256":"' + sha256_hex(b"owl") + '","size_bytes":3},'
        '"kind":"source-image/v1","name":"owl.png"},"name":"paint","params":{"colour":"red","fail":false},"version":"1"}'
    )
    assert stage_of(Paint()).key(source, Params()) == sha256_hex(written.encode())


def test_the_key_changes_with_each_part_and_with_nothing_else(source: SourceImage) -> None:
    key = stage_of(Paint()).key(source, Params())
    other = source.model_copy(update={"name": "cat.png"})
    assert key == stage_of(Paint()).key(SourceImage.model_validate_json(source.model_dump_json()), Params(colour="red"))
    others = {
        stage_of(Paint(), name="draw").key(source, Params()),
        stage_of(Paint(), version=2).key(source, Params()),
        stage_of(Paint()).key(other, Params()),
        stage_of(Paint()).key(source, Params(colour="blue")),
    }
    assert len(others | {key}) == 5


def test_what_is_read_as_bytes_is_what_was_published_and_every_flipped_byte_is_seen(store: Store, source: SourceImage) -> None:
    stage = stage_of(Paint(), name="pänt")
    params = Params(colour='with "quotes", ünïcode and "seconds":1')
    made = stage.result(source, params, store).publication
    given = canonical_json(source), canonical_json(params)
    found = stage.published(*given, store)
    assert found is not None
    assert (found.key, found.seconds) == (made.key, made.seconds)
    assert found.outputs == canonical_json(made.outputs)
    place = manifest_key("pänt", made.key)
    data = store.read(place) or b""
    for position in range(len(data)):
        store.write(place, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert stage.published(*given, store) is None, data[position:]
    for damaged in (data[:-1], data + b" ", b"", data.replace(b'"version":"1"', b'"version":"2"')):
        store.write(place, damaged)
        assert stage.published(*given, store) is None
    store.delete(place)
    assert stage.published(*given, store) is None


@pytest.mark.parametrize("damage", ["rotten blob", "missing blob", "rotten manifest", "flipped digit", "no manifest"])
def test_what_is_not_whole_is_no_hit_and_is_repaired(store: Store, source: SourceImage, damage: str) -> None:
    paint = Paint()
    stage = stage_of(paint)
    outputs = stage(source, Params(), store)
    place = manifest_key("paint", stage.key(source, Params()))
    published = store.read(place)
    assert published is not None
    match damage:
        case "rotten blob":
            store.write(blob_key(outputs.image), b"owlreD")
        case "missing blob":
            store.delete(blob_key(outputs.image))
        case "rotten manifest":
            store.write(place, published[:-2])
        case "flipped digit":
            store.write(place, published.replace(b'"matting_confidence":0.5', b'"matting_confidence":0.4'))
        case _:
            store.delete(place)
    assert stage.lookup(source, Params(), store) is None
    assert stage(source, Params(), store) == outputs
    assert paint.runs == 2
    assert stage.result(source, Params(), store).cached
    assert store.get_blob(outputs.image) == b"owlred"


def test_a_hit_does_not_read_the_blobs_of_earlier_stages(store: Store, source: SourceImage) -> None:
    paint = Paint()
    outputs = stage_of(paint)(source, Params(), store)
    store.delete(blob_key(source.image))
    assert stage_of(paint)(source, Params(), store) == outputs
    assert list(own_blobs(outputs)) == [outputs.image]


def test_a_failing_run_publishes_nothing(store: Store, source: SourceImage) -> None:
    with pytest.raises(NumericalError):
        stage_of(Paint())(source, Params(fail=True), store)
    assert list(store.list("manifests/")) == []


def test_the_manifest_is_written_after_the_blobs(store: Store, source: SourceImage, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    create = store.create
    monkeypatch.setattr(store, "create", lambda key, data: (written.append(key.split("/")[0]), create(key, data))[1])
    stage_of(Paint())(source, Params(), store)
    assert written == ["blobs", "manifests"]


def test_of_two_that_publish_the_first_stands(store: Store, source: SourceImage) -> None:
    stage = stage_of(Paint())

    def slow(inputs: SourceImage, params: Params, store: Store) -> PreparedImage:
        stage(inputs, params, store)
        picture = store.put_blob(b"another", "image/png")
        return PreparedImage(source=inputs, image=picture, matting="opencv", matting_confidence=0.1)

    late = Stage(name="paint", version=1, inputs=SourceImage, params=Params, outputs=PreparedImage, run=slow)
    first = stage_of(Paint()).lookup(source, Params(), store)
    assert first is None
    outputs = late(source, Params(), store)
    assert outputs.matting == "alpha"
    assert stage(source, Params(), store) == outputs


def test_a_publication_belongs_to_its_place(store: Store, source: SourceImage) -> None:
    result = stage_of(Paint()).result(source, Params(), store)
    data, key = canonical_json(result.publication), result.publication.key
    assert read_publication(data, stage="paint", key=key) == result.publication
    with pytest.raises(ArtifactError):
        read_publication(data, stage="draw", key=key)
    with pytest.raises(ArtifactError):
        read_publication(data, stage="paint", key="0" * 64)


def test_every_changed_byte_of_a_publication_is_found() -> None:
    data = canonical_json(
        Publication(stage="s", version="1", key="0" * 64, params={}, outputs={"score": 1.5}, seconds=2.0).sealed()
    )
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ArtifactError):
            read_publication(changed, stage="s", key="0" * 64)


def run_main(tmp_path: Path, *more: str, inputs: str | None = None) -> Path:
    store = open_store(str(tmp_path / "store"))
    source = SourceImage(name="owl.png", image=store.put_blob(b"owl", "image/png"))
    (tmp_path / "in.json").write_text(source.model_dump_json() if inputs is None else inputs)
    out = tmp_path / "out.json"
    main(stage_of(Paint()), ["--in", str(tmp_path / "in.json"), "--out", str(out), "--store", str(tmp_path / "store"), *more])
    return out


def test_a_stage_runs_alone_from_manifest_to_manifest(tmp_path: Path) -> None:
    outputs = PreparedImage.model_validate_json(run_main(tmp_path).read_bytes())
    assert open_store(str(tmp_path / "store")).get_blob(outputs.image) == b"owlred"


def test_a_parameter_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"colour": "blue"}')
    outputs = PreparedImage.model_validate_json(run_main(tmp_path, "--params", str(tmp_path / "params.json")).read_bytes())
    assert open_store(str(tmp_path / "store")).get_blob(outputs.image) == b"owlblue"


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ('{"fail": true}', 4, "no paint left"),
        ('{"colour": 3}', 2, "colour"),
        ('{"size": 3}', 2, "size"),
        ("not json", 2, "params.json"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], params: str, code: int, message: str
) -> None:
    (tmp_path / "params.json").write_text(params)
    with pytest.raises(SystemExit) as caught:
        run_main(tmp_path, "--params", str(tmp_path / "params.json"))
    printed = capsys.readouterr()
    assert (caught.value.code, printed.out) == (code, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(tmp_path, inputs=json.dumps({"kind": "surface/v1"}))
    assert caught.value.code == InputError.exit_code
    assert "SourceImage" in capsys.readouterr().err


def test_own_blobs_looks_into_tuples_and_dicts() -> None:
    blob = Blob(sha256="0" * 64, size_bytes=0, media_type="x/y")

    class Several(Model):
        """Blobs wherever they may be."""

        files: dict[str, Blob]
        views: tuple[Blob, ...]
        source: Blob

    assert len(list(own_blobs(Several(files={"a": blob}, views=(blob, blob), source=blob)))) == 3
