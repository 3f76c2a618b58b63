"""`img2mesh eval mesh`: any two meshes, or two folders of them, under published protocols."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.evaluate.options import JsonOption
from flows.evaluate.reporting import print_json
from img2mesh.errors import InputError

if TYPE_CHECKING:
    from img2mesh.metrics.visible import Triangles

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")

# The light and the direction of a front are those of the first rendered one; a mesh is pictured from a little to the right.


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
    from img2mesh.evaluation.report import interval, plain, table
    from img2mesh.metrics.statistics import estimates

    means = {key: estimates([pair["scores"][key] for pair in scored]) for key in scored[0]["scores"]}
    if as_json:
        print_json({"kind": "mesh-scores/v1", "pairs": scored, "means": {k: plain(v) for k, v in means.items()}})
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
