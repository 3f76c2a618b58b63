"""What a person may ask for beside a preset, the same for `submit`, for scheduled batches and for runs started in the UI."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from img2mesh.errors import InputError

if TYPE_CHECKING:
    from flows.reconstruct import Step
    from flows.submit import Request
    from img2mesh.neus.config import Method

_MOST_FACES = 2_000_000


def pipeline_of(request: "Request") -> "list[Step]":
    """The stages with the parameters that the request asks for.

    Raises:
        InputError: There is no such preset, or it cannot be used here.
    """
    from flows import reconstruct
    from img2mesh import presets

    preset = presets.get(request.preset).with_neus(request.neus)
    meshing = mesh_options(request.faces, request.lods, request.remesh)
    preset = preset.model_copy(update={"export_mesh": preset.export_mesh.model_copy(update=meshing)})
    return reconstruct.stages_of(preset, seed=request.seed, formats=request.formats)


def split_formats(text: str) -> list[str]:
    """`glb, OBJ` as `["glb", "obj"]`."""
    return all_formats(text.split(","))


def all_formats(names: Iterable[str]) -> list[str]:
    """Sorted, each once, always with glb, so that equal wishes have equal keys."""
    return sorted({"glb", *(name.strip().lower().lstrip(".") for name in names if name.strip())})


def split_lods(text: str | None) -> tuple[int, ...] | None:
    """`20000,5000` as numbers; nothing as nothing.

    Raises:
        InputError: There is something else in it.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise _no_lods(text)
    return tuple(int(part) for part in parts)


def mesh_options(faces: int | None, lods: Sequence[int] | None, remesh: str | None) -> dict[str, Any]:
    """The fields of the export's configuration that these options set; the first of the `lods` is the mesh itself.

    Raises:
        InputError: The budgets are not descending from at least 100 to at least 4, or contradict `faces`; or there is no such
            way to remesh.
    """
    if faces is not None and not 100 <= faces <= _MOST_FACES:
        raise InputError(f"faces must be between 100 and {_MOST_FACES}; found {faces}")
    if remesh not in (None, "isotropic"):
        raise InputError(f"unknown remesh {remesh!r}: choose isotropic, or leave it out")
    chosen: dict[str, Any] = {} if faces is None else {"faces": faces}
    if lods is not None:
        descending = bool(lods) and list(lods) == sorted(set(lods), reverse=True)
        if not descending or not 100 <= lods[0] <= _MOST_FACES or lods[-1] < 4:
            raise _no_lods(",".join(map(str, lods)))
        if faces not in (None, lods[0]):
            raise InputError(f"faces {faces} contradict lods, whose first is the mesh itself: {','.join(map(str, lods))}")
        chosen |= {"faces": lods[0], "lods": tuple(lods[1:])}
    return chosen | ({} if remesh is None else {"remesh": remesh})


def _no_lods(found: str) -> InputError:
    return InputError(f"lods must be descending numbers of triangles, as 20000,5000,1000; found {found!r}")


def method_of(neus: str) -> "Method":
    """What fits the surface, by the word that a person uses.

    Raises:
        InputError: The word is unknown.
    """
    from img2mesh.neus.config import Method

    method = {"nerfstudio": "nerfstudio-neus-facto"}.get(neus, neus)
    if method not in get_args(Method):
        raise InputError(
            f"unknown neus {neus!r}: choose nerfstudio (which is NeuS-facto) or one of {', '.join(get_args(Method))}"
        )
    return cast("Method", method)
