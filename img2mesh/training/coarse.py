"""Coarse fits for training: where a decoder is used, it is guided by a fitted surface's depth and never by the true one."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from img2mesh.data.dataset import RenderedObjects, Sample, read_sample
from img2mesh.errors import InputError, NumericalError
from img2mesh.geometry.cameras import orbit
from img2mesh.models.autoencoder import decode_views, encode_views, from_config
from img2mesh.models.checkpoint import digest, read_weights
from img2mesh.neus.fit import fit
from img2mesh.presets import compact, true_views


class CoarselyFitted(RenderedObjects):
    """Some fronts of rendered objects, with the depth of surfaces fitted to what an autoencoder leaves of their views."""

    def __init__(self, folder: Path, split: str, vae_weights: Path, fronts: Sequence[int]) -> None:
        """Fit what is not there yet: fits are kept beside the views, so that no later training needs to make them again.

        Args:
            folder: Of `img2mesh data render`.
            split: Of the objects.
            vae_weights: The finished autoencoder.
            fronts: Which of the split's; those in whose views no surface is found are left out.

        Raises:
            InputError: Nothing of this split has been rendered there, or no surface was found in any views.
        """
        super().__init__(folder, split)
        state, config = read_weights(vae_weights)
        self._vae = from_config(config)
        self._vae.load_state_dict(state)
        self._folder = folder / f"coarse-{digest(vae_weights)[:12]}" / split
        self._folder.mkdir(parents=True, exist_ok=True)
        chosen = [self.items[front] for front in fronts]
        self.items = [item for number, item in enumerate(chosen, start=1) if self._fitted(item, f"{number}/{len(chosen)}")]
        if not self.items:
            raise InputError(f"no surface fits the views of any of {len(chosen)} fronts in {folder}: train with --fits 0")
        self.weights = torch.ones(len(self.items))

    def load(self, item: int) -> Sample:
        """One front's six views."""
        return replace(super().load(item), depth=load_file(self._file(self.items[item]))["depth"].float())

    def _file(self, item: tuple[Path, int]) -> Path:
        path, front = item
        return self._folder / f"{path.stem}-{front}.safetensors"

    def _fitted(self, item: tuple[Path, int], place: str) -> bool:
        """Whether there is a fit, if need be after making it."""
        file = self._file(item)
        failed, part = file.with_suffix(".failed"), file.with_suffix(".part")
        if file.exists() or failed.exists():
            return file.exists()
        begun = time.monotonic()
        try:
            depth = self._fit(read_sample(*item))
        except NumericalError as error:
            failed.write_text(f"{error}\n", encoding="utf-8")
            return False
        save_file({"depth": depth.half().contiguous()}, part)
        part.replace(file)
        print("coarse fit " + json.dumps({"fit": place, "seconds": round(time.monotonic() - begun, 1)}), flush=True)
        return True

    def _fit(self, sample: Sample) -> Float[Tensor, "view height width"]:
        cameras = orbit(size_px=sample.rgb.shape[-1])
        latents = encode_views(self._vae, sample.rgb, sample.alpha, sample.normals)
        views = decode_views(latents, cameras, sample.picture(), self._vae)
        return fit(views, true_views(len(views), compact().coarse_neus.resolutions[-1]), seed=0).render_depth(cameras)[0]
