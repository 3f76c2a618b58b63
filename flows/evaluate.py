"""`img2mesh eval mesh|views|decoder|meshes`: scores against the truth, as tables and as JSON."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2mesh.errors import InputError

if TYPE_CHECKING:
    from img2mesh.metrics.statistics import Estimate
    from img2mesh.metrics.visible import Triangles

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Score meshes, views and decoders against the truth.")

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


@app.command()
def mesh(
    prediction: Annotated[Path, typer.Argument(metavar="PRED", help="A mesh file, or a folder of them.")],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="The true mesh, or a folder with one of each predicted name.")],
    *,
    protocol: Annotated[
        str, typer.Option(metavar="LIST", help="img2mesh, syncdreamer, mvdiffusion++, spar3d; comma-separated.")
    ] = "img2mesh,syncdreamer,mvdiffusion++,spar3d",
    as_json: JsonOption = False,
) -> None:
    """Score meshes against true ones under three published protocols and ours.

    +y is up. Two folders are matched by the names of their files without suffix, and give means with 95% confidence intervals.
    syncdreamer takes both meshes to be in one frame; the others normalise each by itself.
    """
    from img2mesh.metrics.protocols import PROTOCOLS

    wanted = [name.strip() for name in protocol.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(PROTOCOLS))
    if unknown or not wanted:
        raise InputError(f"unknown protocol {', '.join(unknown) or repr(protocol)}: choose of {', '.join(PROTOCOLS)}")
    pairs = _mesh_pairs(prediction, truth)
    scored = []
    for name, ours, theirs in pairs:
        loaded = read_mesh(ours), read_mesh(theirs)
        scored.append({"name": name, "scores": {key: PROTOCOLS[key](*loaded) for key in wanted}})
        if len(pairs) > 1:
            print(f"scored {len(scored)}/{len(pairs)} {name}", file=sys.stderr, flush=True)
    _print_mesh_scores(scored, as_json=as_json)


def _print_mesh_scores(scored: list[dict[str, Any]], *, as_json: bool) -> None:
    from img2mesh.metrics.statistics import estimates

    means = {key: estimates([pair["scores"][key] for pair in scored]) for key in scored[0]["scores"]}
    if as_json:
        _print_json({"kind": "mesh-scores/v1", "pairs": scored, "means": {k: _plain(v) for k, v in means.items()}})
        return
    rows = [[key, name, interval(value, 4)] for key, columns in means.items() for name, value in columns.items()]
    print(table(["protocol", "score", f"mean of {len(scored)}" if len(scored) > 1 else "value"], rows))


def _mesh_pairs(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    """Names with the files of both sides.

    Raises:
        InputError: A file against a folder, a name that only one side has, or no meshes at all.
    """
    for path in (prediction, truth):
        if not path.exists():
            raise InputError(f"no mesh and no folder at {path}")
    if prediction.is_dir() != truth.is_dir():
        raise InputError(f"expected two files or two folders, found one of each: {prediction}, {truth}")
    if prediction.is_file():
        return [(prediction.stem, prediction, truth)]
    ours, theirs = _meshes_in(prediction), _meshes_in(truth)
    missing = sorted(set(ours) - set(theirs))
    if missing:
        raise InputError(f"{truth} has no mesh for {len(missing)} of {len(ours)} in {prediction}, such as {missing[0]!r}")
    return [(name, ours[name], theirs[name]) for name in sorted(ours)]


def _meshes_in(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in MESH_SUFFIXES)
    if not files:
        raise InputError(f"no mesh in {folder}: expected files with {', '.join(MESH_SUFFIXES)}")
    named: dict[str, Path] = {}
    for path in files:
        if path.stem in named:
            raise InputError(f"{folder} has both {named[path.stem].name} and {path.name}: give each mesh once")
        named[path.stem] = path
    return named


def read_mesh(path: Path) -> "Triangles":
    """All triangles of a mesh file, under the transforms of its scene.

    Raises:
        InputError: The file cannot be read as a mesh, or has no triangles.
    """
    import numpy as np
    import trimesh

    from img2mesh.metrics.visible import Triangles

    try:
        joined = trimesh.load_scene(path, process=False).to_mesh()
    except Exception as error:  # trimesh raises whatever its parsers meet: ValueError, KeyError, struct.error, ...
        raise InputError(f"{path} is not a readable mesh ({type(error).__name__}: {error})") from error
    if not len(joined.faces):
        raise InputError(f"{path} has no triangles")
    return Triangles(vertices=np.asarray(joined.vertices, np.float64), faces=np.asarray(joined.faces, np.int64))


def interval(value: "Estimate", digits: int) -> str:
    """A mean with its interval, as `0.512 [0.487, 0.536]`; of one object the value alone."""
    if value.count == 1:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table with columns of even width."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines)


def _plain(columns: "dict[str, Estimate]") -> dict[str, dict[str, float]]:
    """Estimates as a JSON document has them."""
    return {name: {"mean": v.mean, "low": v.low, "high": v.high, "count": v.count} for name, v in columns.items()}


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, ensure_ascii=False, allow_nan=False, indent=2)
    sys.stdout.write("\n")
