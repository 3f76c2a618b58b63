"""What the pipeline's own stages make of a rendered picture, one after the other, for the commands that score them."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from img2mesh.errors import InputError
from img2mesh.manifests import AlignedViews, CoarseGeometry, Model, MultiviewLatents, PreparedImage, SourceImage
from img2mesh.manifests import Surface as SurfaceManifest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from img2mesh.data.dataset import RenderedObjects, Sample
    from img2mesh.evaluation.views import Pictures
    from img2mesh.geometry.views import Views
    from img2mesh.presets import Preset
    from img2mesh.storage import Store


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The stages of one preset over one store; what is in the store already is not computed again."""

    preset: "Preset"
    store: "Store"
    seed: int = 0

    def latents(self, rgba: "Tensor", name: str) -> MultiviewLatents:
        """Six views of a picture that is already framed as the renderer frames it.

        Args:
            rgba: [4, height, width] in [0, 1], straight alpha.
        """
        return self.multiview(self.prepared(rgba, name))

    def prepared(self, rgba: "Tensor", name: str) -> PreparedImage:
        """The picture as the first stage hands it on, without moving or scaling it."""
        import torch

        from img2mesh import codec

        pixels = (rgba.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).contiguous().numpy()
        blob = codec.put_rgba(self.store, pixels)
        return PreparedImage(source=SourceImage(name=name, image=blob), image=blob, matting="alpha", matting_confidence=1.0)

    def prepare(self, png: bytes, name: str) -> PreparedImage:
        """A picture file through the first stage."""
        source = SourceImage(name=name, image=self.store.put_blob(png, "application/octet-stream"))
        return PreparedImage.model_validate(self._run("prepare", source))

    def multiview(self, prepared: PreparedImage) -> MultiviewLatents:
        """Six views of a prepared picture."""
        return MultiviewLatents.model_validate(self._run("multiview", prepared))

    def encoded(self, sample: "Sample", prepared: PreparedImage) -> MultiviewLatents:
        """Latents of the true views, in the place of generated ones."""
        from img2mesh import codec
        from img2mesh.geometry.cameras import orbit
        from img2mesh.models.autoencoder import encode_views, load

        network = load(self.preset.autoencoder.name, self.preset.autoencoder.sha256)
        latents = encode_views(network, sample.rgb, sample.alpha, sample.normals)
        cameras = codec.specs_from_cameras(orbit(size_px=sample.rgb.shape[-1]))
        return MultiviewLatents(source=prepared, latents=codec.put_tensors(self.store, latents), cameras=cameras)

    def coarse(self, latents: MultiviewLatents, *, true: bool = False) -> CoarseGeometry:
        """Plainly decoded views and the depth of the coarse surface; `true` for latents of views that do not contradict."""
        from img2mesh.presets import true_views

        resolution = self.preset.coarse_neus.resolutions[-1]
        more = {"fit": true_views(len(latents.cameras), resolution)} if true else {}
        return CoarseGeometry.model_validate(self._run("coarse_neus", latents, **more))

    def decode(self, coarse: CoarseGeometry) -> AlignedViews:
        """The depth-guided decode."""
        return AlignedViews.model_validate(self._run("decode", coarse))

    def surface(self, aligned: AlignedViews, *, coarse: bool = False) -> "Tensor":
        """Signed distances of the refit to these views, or of the coarse fit."""
        from img2mesh import codec

        more = {"fit": self.preset.coarse_neus} if coarse else {}
        surface: SurfaceManifest = self._run("refit_neus", aligned, **more)
        return codec.get_tensors(self.store, surface.field)["sdf"]

    def with_views(self, coarse: CoarseGeometry, views: "Views") -> AlignedViews:
        """Other views in the place of decoded ones."""
        from img2mesh import codec

        return AlignedViews(source=coarse, views=codec.put_views(self.store, views))

    def pictures(self, manifest: CoarseGeometry | AlignedViews) -> "Pictures":
        """The views of a manifest."""
        from img2mesh import codec
        from img2mesh.evaluation.views import Pictures

        latents = manifest.source if isinstance(manifest, CoarseGeometry) else manifest.source.source
        views = codec.get_views(self.store, manifest.views, latents.cameras)
        return Pictures(rgb=views.rgb, alpha=views.alpha)

    def plain_pictures(self, latents: MultiviewLatents) -> "Pictures":
        """The views that the plain decoder makes, with what the input picture settles."""
        import torch

        from img2mesh import codec
        from img2mesh.evaluation.views import Pictures
        from img2mesh.models.autoencoder import decode_views, load

        front = torch.from_numpy(codec.get_rgba(self.store, latents.source.image).copy()).movedim(-1, 0).float() / 255
        views = decode_views(
            codec.get_tensors(self.store, latents.latents),
            codec.cameras_from_specs(latents.cameras),
            front,
            load(self.preset.autoencoder.name, self.preset.autoencoder.sha256),
        )
        return Pictures(rgb=views.rgb, alpha=views.alpha)

    def _run(self, name: str, inputs: Model, **more: Any) -> Any:
        module = importlib.import_module(f"stages.{name}")
        params = module.Params.of(self.preset, seed=self.seed)
        return module.STAGE(inputs, params.model_copy(update=more), self.store)


def samples(folder: "Path", split: str, *, count: int | None, size_px: int) -> "tuple[RenderedObjects, list[tuple[str, int]]]":
    """The rendered objects of a split, and names and items of evenly chosen ones, each from its first front.

    Raises:
        InputError: There are none, or their views have another size than the preset's.
    """
    from img2mesh.data.dataset import RenderedObjects

    data = RenderedObjects(folder, split)
    first = [(path.stem, item) for item, (path, front) in enumerate(data.items) if front == 0]
    found = data.load_front(first[0][1]).shape[-1]
    if found != size_px:
        raise InputError(f"expected views of {size_px} px in {folder}, found {found}: render them with --size-px {size_px}")
    return data, list(evenly(first, count))


def evenly(items: list[Any], count: int | None) -> Iterator[Any]:
    """At most `count` of the items, as far apart as possible."""
    wanted = len(items) if count is None else min(count, len(items))
    yield from (items[index * len(items) // wanted] for index in range(wanted))
