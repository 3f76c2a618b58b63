"""The depth-guided decode: the latents again, now with the coarse depth that says which pixels see the same point."""

from img2mesh.manifests import AlignedViews, CoarseGeometry, Model, WeightsRef
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main
from img2mesh.storage import Store


class Params(Model):
    """Everything that changes the bytes of the output."""

    autoencoder: WeightsRef
    decoder: WeightsRef

    @classmethod
    def of(cls, preset: Preset, *, seed: int) -> "Params":
        """The preset's parameters; decoding has no randomness."""
        del seed
        return cls(autoencoder=preset.autoencoder, decoder=preset.decoder)


def run(inputs: CoarseGeometry, params: Params, store: Store) -> AlignedViews:
    """Decode the colours under the coarse depth; normals stay plainly decoded, as the front stays the prepared picture."""
    from dataclasses import replace

    import torch

    from img2mesh import codec
    from img2mesh.models import autoencoder, decoder
    from img2mesh.models.colours import with_colours_of
    from img2mesh.models.details import agreeing, with_details_of

    network = decoder.load(params.decoder.name, params.decoder.sha256)
    plain = codec.get_views(store, inputs.views, inputs.source.cameras)
    depth = codec.get_tensors(store, inputs.depth)["depth"]
    latents = codec.get_tensors(store, inputs.source.latents)["colour"].float()
    rgb, alpha = decoder.decode_views(network, latents, plain, depth)
    front = torch.cat([plain.rgb[0], plain.alpha[:1]])
    origin = autoencoder.origin_of(network.decoder.conv_out.out_channels, generated=plain.outlines is not None)
    if origin != "published":
        vae = autoencoder.load(params.autoencoder.name, params.autoencoder.sha256)
        decoded = autoencoder.decode_picture(vae, latents[0])
        rgb = with_colours_of(front, decoded, rgb, alpha)
    rgb, alpha = autoencoder.with_known(rgb, alpha, front, origin=origin)
    if origin != "published":
        generated = origin == "generated"
        [decoded] = with_colours_of(front, decoded, decoded[None], front[3:])
        rgb = with_details_of(front, decoded, rgb, depth, plain.cameras, generated=generated)
        rgb = agreeing(rgb, alpha, depth, plain.cameras, generated=generated)
    aligned = replace(plain, rgb=rgb, alpha=alpha)
    return AlignedViews(source=inputs, views=codec.put_views(store, aligned))


STAGE = Stage(name="decode", version=9, inputs=CoarseGeometry, params=Params, outputs=AlignedViews, run=run)

if __name__ == "__main__":
    main(STAGE)
