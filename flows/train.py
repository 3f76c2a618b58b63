"""`img2mesh train vae|regressor|multiview|decoder`: each network by one command, resumed by repeating it."""

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from img2mesh.errors import InputError

if TYPE_CHECKING:
    from img2mesh.training.decoder import DecoderConfig
    from img2mesh.training.loop import Precision

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train the compact family, or the published decoder's new layers; repeat a command to resume it.",
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
def regressor(
    views: Views,
    *,
    base: Annotated[
        Path | None, typer.Option(help="Weights of the first guess to start as.", show_default="published features")
    ] = None,
    out: Out = Path("runs/regressor"),
    steps: Steps = 3600,
    seed: Seed = 0,
) -> None:
    """Train the first guess of six views from one, which the generator starts from."""
    from img2mesh.models.features import published_features
    from img2mesh.training.regressor import RegressorConfig, train_regressor

    config = (RegressorConfig.onwards if base else RegressorConfig.of)(steps=steps, seed=seed)
    features = None if base else published_features()
    _finish(train_regressor(views, out, config, device=_device(), features=features, base=base))


@app.command()
def multiview(
    views: Views,
    *,
    vae: Vae,
    regressor: Annotated[Path | None, typer.Option(help="Weights of the finished first guess of the views.")] = None,
    base: Annotated[Path | None, typer.Option(help="Weights of the generator to start as.", show_default="random")] = None,
    out: Out = Path("runs/multiview"),
    steps: Steps = 1200,
    sharpen: Annotated[bool, typer.Option(help="The last leg, from --base: look at decoded pictures too.")] = False,
    seed: Seed = 0,
) -> None:
    """Train the generator of six views from one."""
    from img2mesh.training.multiview import MultiviewConfig, train_multiview

    if sharpen and base is None:
        raise InputError("--sharpen goes on from a trained generator: give --base WEIGHTS")
    leg = MultiviewConfig.sharpening if sharpen else MultiviewConfig.onwards if base else MultiviewConfig.of
    config = leg(steps=steps, seed=seed)
    _finish(train_multiview(views, vae, out, config, device=_device(), regressor=regressor, base=base))


class Family(StrEnum):
    """Whose decoder is trained."""

    COMPACT = "compact"
    WONDER3D = "wonder3d"


class Format(StrEnum):
    """Number format of activations."""

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


@app.command()
def decoder(
    views: Annotated[Path | None, typer.Argument(metavar="[VIEWS]", help="Folder written by img2mesh data render.")] = None,
    *,
    preset: Annotated[Family, typer.Option(help="compact, or wonder3d: the published decoder at full size.")] = Family.COMPACT,
    objects: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder or s3:// of objects, rendered below OUT first; wonder3d only.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Weights of the finished autoencoder.", show_default="the preset's")] = None,
    out: Out = Path("runs/decoder"),
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all.", show_default="400, wonder3d 3000")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Objects a step, over all GPUs; wonder3d only.")] = 8,
    processes: Annotated[int | None, typer.Option(min=1, help="One a GPU; wonder3d only.", show_default="all GPUs")] = None,
    precision: Annotated[Format, typer.Option(help="Of activations; auto: bf16 where the hardware has it.")] = Format.AUTO,
    seed: Seed = 0,
    variant: Annotated[
        str, typer.Option(help="The compact decoder itself (ours), or a row of the ablation: docs/evaluation.md.")
    ] = "ours",
    fits: Annotated[
        int, typer.Option(min=0, help="Fronts to train on, with coarse fits that are kept in VIEWS; 0: all, with true depth.")
    ] = 112,
) -> None:
    """Train the depth-guided decoder: the compact one, or the published one at full size on one to eight GPUs."""
    from img2mesh.training.decoder import VARIANTS, compact, full_size, train_decoder

    if preset is Family.COMPACT:
        if views is None or vae is None or objects is not None:
            raise InputError("the compact decoder is trained on rendered VIEWS with --vae WEIGHTS")
        if variant not in VARIANTS:
            raise InputError(f"unknown --variant {variant!r}: choose of {', '.join(VARIANTS)}")
        config = compact(steps=steps or 400, seed=seed, variant=variant, fits=fits, precision=_precision(precision))
        _finish(train_decoder(views, vae, out, config, device=_device()))
        return
    if (views is None) == (objects is None):
        raise InputError("give either rendered VIEWS of 256 px or --objects")
    config = full_size(steps=steps or 3000, seed=seed, draws=batch, precision=_precision(precision))
    if objects is not None:
        views = out / "views"
    assert views is not None
    _train_full_size(config, views, vae, out, objects, processes)


def _train_full_size(
    config: "DecoderConfig", views: Path, vae: Path | None, out: Path, objects: str | None, processes: int | None
) -> None:
    """Render what is missing, then train, in processes of their own where there are several GPUs."""
    from img2mesh import presets
    from img2mesh.metrics.lpips import require_lpips
    from img2mesh.models.home import weights_path
    from img2mesh.training.decoder import train_decoder

    preset = presets.get("wonder3d")
    require_lpips()
    if "LOCAL_RANK" not in os.environ:
        count = processes or _gpus() or 1
        if config.loop.draws % count:
            raise InputError(f"--batch {config.loop.draws} cannot be shared out among {count} processes: use a multiple")
        if objects is not None:
            _render(objects, out, views, config.size_px or 256)
        if count > 1:
            raise typer.Exit(_launch(count))
    base = weights_path(preset.decoder.name)
    _finish(train_decoder(views, vae or weights_path(preset.autoencoder.name), out, config, device=_device(), base=base))


def _render(objects: str, out: Path, views: Path, size_px: int) -> None:
    from img2mesh.data.render import render_dataset

    folder = Path(objects.removeprefix("file://"))
    if objects.startswith("s3://"):
        folder = out / "objects"
        _fetch(objects, folder)
    count = render_dataset(folder, views, size_px=size_px, processes=max(1, (os.cpu_count() or 1) // 2))
    typer.echo(f"{count} objects in {views}")


def _fetch(uri: str, folder: Path) -> None:
    """Copy what is below a bucket's prefix and not here yet."""
    from img2mesh.data.render import write_whole
    from img2mesh.storage import open_store

    store = open_store(uri)
    keys = list(store.list())
    if not keys:
        raise InputError(f"nothing below {uri}: give a prefix that holds index.jsonl or .glb files")
    for key in keys:
        if not (folder / key).is_file() and (data := store.read(key)) is not None:
            write_whole(folder / key, data)
    typer.echo(f"{len(keys)} files in {folder}")


def _launch(processes: int) -> int:
    """Run this very command once a process, each knowing of the others; returns the exit code."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([*program, "-m", "flows.cli", *sys.argv[1:]], check=False).returncode


@app.command()
def ship(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Folders of finished training runs.")],
    preset: Annotated[Family, typer.Option(help="Whose weights they become.")] = Family.COMPACT,
) -> None:
    """Put finished weights, with their settings and logs, where the presets find them."""
    from img2mesh.models.home import SHIPPED, pulled_home
    from img2mesh.training.shipping import ship_run

    for run in runs:
        typer.echo(f"shipped {ship_run(run, SHIPPED if preset is Family.COMPACT else pulled_home() / preset)}")


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    # "cuda" then means the GPU of this process.
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return "cuda"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _precision(wanted: Format) -> "Precision":
    """bf16 has the range that the decoder's activations need; fp16 stands in on GPUs that compute in nothing shorter."""
    if wanted is not Format.AUTO:
        return cast("Precision", wanted.value)
    from img2mesh.models import placement

    if placement.multiplies_bf16(placement.device()):
        return "bf16"
    return "fp16" if placement.device() == "cuda" else "fp32"


def _finish(weights: Path) -> None:
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"weights: {weights}")
