"""One training of a decoder on the shipped autoencoder, for as many processes as have been started."""

import os
import sys
from pathlib import Path

from img2mesh.models.home import SHIPPED
from img2mesh.training.decoder import DecoderConfig, train_decoder
from img2mesh.training.loop import LoopConfig

STEPS, DRAWS = 6, 2


def main(views: str, out: str) -> None:
    loop = LoopConfig(
        steps=STEPS,
        lr=1e-3,
        matrix_lr=None,
        warmup_steps=1,
        checkpoint_every_s=0,
        report_every=1,
        draws=DRAWS,
        precision="fp32",
    )
    config = DecoderConfig(loop=loop, checkpointing=True)
    Path(out).mkdir(exist_ok=True)
    (Path(out) / f"{os.environ.get('RANK', '0')}.pid").write_text(str(os.getpid()))
    train_decoder(Path(views), SHIPPED / "vae.safetensors", Path(out), config, device="cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
