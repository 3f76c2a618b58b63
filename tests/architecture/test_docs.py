"""Documents link to what exists and name files, tests and targets that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
NAMED_FILE = re.compile(r"`((?:tests|img2mesh|stages|flows|infra|containers|docs|benchmarks)/[\w./-]+\.\w+)(?:::\w+)?`")
NAMED_TEST = re.compile(r"`(tests/[\w./-]+\.py)::(\w+)`")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_and_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    assert [target for target in sorted(links) if target and not (path.parent / target).exists()] == []
    named = {name for name in NAMED_FILE.findall(text) if "NAME" not in name}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_named_tests_exist(path: Path) -> None:
    named = NAMED_TEST.findall(path.read_text(encoding="utf-8"))
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert re.findall(r"\]\(([^)]+)\)", index) == records


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = re.findall(r"(?:`|^)make ((?:[a-z]+ ?)+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {word for words in named for word in words.split()} <= targets


def test_readme_lists_the_stages_in_order() -> None:
    import stages

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE) if name in stages.NAMES] == list(
        stages.NAMES
    )


def test_readme_gives_the_exit_codes_of_the_errors() -> None:
    from img2mesh import errors

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", readme, flags=re.MULTILINE)}
    assert listed == {0} | {cls.exit_code for cls in (errors.Img2MeshError, *errors.Img2MeshError.__subclasses__())}
