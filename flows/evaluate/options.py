"""What the commands are asked for alike."""

import math
from pathlib import Path
from typing import Annotated

import typer

from img2mesh.errors import InputError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
ViewsArgument = Annotated[Path, typer.Argument(metavar="VIEWS", help="Folder written by img2mesh data render.")]
SplitOption = Annotated[str, typer.Option(help="val, or heldout for numbers that are published and for nothing else.")]
PresetOption = Annotated[str, typer.Option("--preset", help="Whose weights and settings; see `img2mesh presets`.")]
CountOption = Annotated[int | None, typer.Option(min=1, help="At most this many objects, evenly chosen.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the tables, the JSON and the pictures.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="Keep what the stages compute here, so that a repeat is quick.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything that is random.")]


def one_of(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """The comma-separated words of an option.

    Raises:
        InputError: One of them is not known, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or set(words) - set(known):
        raise InputError(f"unknown {option} {text!r}: choose of {', '.join(known)}")
    return words


def numbers(option: str, text: str) -> list[float]:
    """The comma-separated numbers of an option.

    Raises:
        InputError: One is no number of at least 0.
    """
    try:
        given = [float(word) for word in text.split(",")]
    except ValueError:
        given = [math.nan]
    if not all(0 <= number < math.inf for number in given):
        raise InputError(f"expected numbers of at least 0, separated by commas, in {option}; found {text!r}")
    return given
