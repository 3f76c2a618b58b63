"""What ruff and mypy do not say about the source: late imports, short functions, docstrings and names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FUNCTION = 80
LATE = frozenset({"torch", "diffusers", "transformers", "open3d", "pymeshlab", "rembg", "xatlas", "cv2", "skimage", "scipy"})
BANNED_WORDS = frozenset({"util", "utils", "helper", "helpers", "manager", "data2", "final", "misc", "common"})
# Matrices that do not say from where to where.
BANNED_MATRICES = frozenset({"extrinsics", "extrinsic", "rt", "c2w", "w2c"})

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _trees(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages or ("img2mesh", "stages", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _definitions() -> Iterator[tuple[Path, Definition]]:
    for path, tree in _trees():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, Definition))


def _importable(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class that run when it is imported, one inside the other."""
    for node in body:
        yield node
        for field in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(node, ast.FunctionDef) and "TYPE_CHECKING" not in ast.dump(getattr(node, "test", ast.Pass())):
                yield from _importable(getattr(node, field, []))


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_stages_and_flows_import_what_is_heavy_late() -> None:
    early = [
        f"{path}:{node.lineno} {name}"
        for path, tree in _trees("stages", "flows")
        for node in _importable(tree.body)
        for name in _imported(node)
        if name.split(".")[0] in LATE
    ]
    assert early == []


@pytest.mark.parametrize("module", ["flows.cli", "img2mesh.presets", "img2mesh.stage", "stages.prepare", "stages.export_mesh"])
def test_importing_brings_neither_torch_nor_prefect(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'prefect', 'diffusers', 'open3d'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


def test_functions_are_short() -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for path, node in _definitions()
        if not isinstance(node, ast.ClassDef) and (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_everything_is_synchronous() -> None:
    assert [f"{path}:{node.lineno}" for path, node in _definitions() if isinstance(node, ast.AsyncFunctionDef)] == []


def test_public_names_have_docstrings() -> None:
    bare = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in _trees()
        for node in _importable(tree.body)
        if isinstance(node, Definition) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []
    assert [str(path) for path, tree in _trees() if not ast.get_docstring(tree)] == []


def test_functions_say_what_they_return() -> None:
    untyped = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in _definitions()
        if not isinstance(node, ast.ClassDef) and node.returns is None
    ]
    assert untyped == []


def test_names_say_what_is_inside() -> None:
    names = {(str(path), part) for path, _ in _trees() for part in path.with_suffix("").parts}
    names |= {(f"{path}:{node.lineno}", node.name) for path, node in _definitions()}
    assert [f"{place} {name}" for place, name in sorted(names) if BANNED_WORDS & set(name.lower().split("_"))] == []


def test_matrices_say_from_where_to_where() -> None:
    names = {
        (str(path), name)
        for path, tree in _trees()
        for node in ast.walk(tree)
        for name in (getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "attr", None))
        if isinstance(name, str)
    }
    assert [f"{path} {name}" for path, name in sorted(names) if name.lower() in BANNED_MATRICES] == []


def test_nothing_is_pickled() -> None:
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    importing = [
        f"{path}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and unsafe & set(_imported(node))
    ]
    loading = [
        f"{path}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if "weights_only=True" not in ast.unparse(node)
    ]
    assert (importing, loading) == ([], [])


def test_each_stage_runs_alone() -> None:
    import stages

    modules = {path.stem: tree for path, tree in _trees("stages") if path.stem != "__init__"}
    assert set(modules) == set(stages.NAMES)
    for name, tree in modules.items():
        assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main(STAGE)", name
