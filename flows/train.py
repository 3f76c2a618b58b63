"""`img2mesh train vae|multiview|decoder`: each network by one command, resumed by repeating it."""

from pathlib import Path
from typing import Annotated

import typer

from img2mesh.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train the compact family on rendered views; repeat a command to resume it.",
)

Views = Annotated[Path, typer.Argument(metavar="VIEWS", help="Folder written by img2mesh data render.")]
Out = Annotated[Path, typer.Option(help="Folder of the checkpoint, the log, the sample sheets and the weights.")]
Vae = Annotated[Path, typer.Option(help="Weights of the finished autoencoder.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")]
Seed = Annotated[int, typer.Option(help="Decides the initial weights and every random choice.")]


@app.command()
def vae(views: Views, out: Out = Path("runs/vae"), steps: Steps = 3600, seed: Seed = 0) -> None:
    """Train the autoencoder of pictures and normal maps."""
    from img2mesh.training.loop import LoopConfig
    from img2mesh.training.vae import VaeConfig, train_vae

    loop = LoopConfig(steps=steps, seed=seed)
    _finish(train_vae(views, out, VaeConfig(loop=loop), device=_device()))


@app.command()
def multiview(views: Views, vae: Vae, out: Out = Path("runs/multiview"), steps: Steps = 1200, seed: Seed = 0) -> None:
    """Train the generator of six views from one."""
    from img2mesh.training.loop import LoopConfig
    from img2mesh.training.multiview import MultiviewConfig, train_multiview

    loop = LoopConfig(steps=steps, seed=seed)
    _finish(train_multiview(views, vae, out, MultiviewConfig(loop=loop), device=_device()))


@app.command()
def decoder(
    views: Views,
    vae: Vae,
    out: Out = Path("runs/decoder"),
    steps: Steps = 500,
    seed: Seed = 0,
    variant: Annotated[
        str, typer.Option(help="The decoder itself (ours), or a row of the ablation: docs/evaluation.md.")
    ] = "ours",
) -> None:
    """Train the depth-guided decoder around the autoencoder's own."""
    from img2mesh.training.decoder import VARIANTS, DecoderConfig, train_decoder
    from img2mesh.training.loop import LoopConfig

    if variant not in VARIANTS:
        raise InputError(f"unknown --variant {variant!r}: choose of {', '.join(VARIANTS)}")
    loop = LoopConfig(steps=steps, seed=seed)
    _finish(train_decoder(views, vae, out, DecoderConfig(loop=loop, **VARIANTS[variant]), device=_device()))


@app.command()
def ship(runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Folders of finished training runs.")]) -> None:
    """Put finished weights, with their settings and logs, where the presets find them."""
    from img2mesh.training.shipping import ship_run

    for run in runs:
        typer.echo(f"shipped {ship_run(run)}")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _finish(weights: Path) -> None:
    typer.echo(f"weights: {weights}")
