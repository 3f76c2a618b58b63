"""What a GPU of a given memory holds, without one."""

import pytest
import torch
from diffusers import DDIMScheduler

from flows.doctor import plans
from img2mesh.diffusion.sampling import sample
from img2mesh.models import placement
from img2mesh.models.full_size import AUTOENCODER, DECODER, UNET
from img2mesh.models.multiview_unet import MultiviewUNet
from img2mesh.models.placement import Plan, plan_gpu


def test_much_memory_takes_everything_at_once_and_little_saves_step_by_step() -> None:
    large, small = plan_gpu(24, bf16=True), plan_gpu(4, bf16=True)
    assert (large.latents, large.decoders, large.split_guidance, large.offload) == (12, "fp32", False, False)
    assert small.offload
    assert small.fits
    previous = 0.0
    for memory_gb in range(3, 25):
        found = plan_gpu(memory_gb, bf16=True)
        assert not found.fits or found.needs_gb <= memory_gb
        # More memory never asks for less.
        assert found.needs_gb >= previous or not found.fits
        previous = found.needs_gb if found.fits else 0.0


def test_a_gpu_without_bf16_keeps_the_decoders_in_single_precision() -> None:
    assert all(plan_gpu(memory_gb, bf16=False).decoders == "fp32" for memory_gb in range(2, 25))


def test_what_does_not_fit_is_said() -> None:
    found = plan_gpu(2, bf16=True)
    assert not found.fits
    assert "more than there is" in str(found)


def test_the_weights_are_those_of_the_networks() -> None:
    from img2mesh.models.autoencoder import from_config
    from img2mesh.models.decoder import DepthGuidedDecoder

    with torch.device("meta"):
        networks = MultiviewUNet.from_published_config(UNET), from_config(AUTOENCODER), DepthGuidedDecoder(DECODER)
    unet, autoencoder, decoder = (sum(p.numel() for p in network.parameters()) for network in networks)
    # CLIP ViT-L/14 for pictures has 304 million parameters.
    assert pytest.approx((unet + 304e6) * 2 / 1e9, rel=0.01) == placement._GENERATOR_GB
    assert pytest.approx(autoencoder * 4 / 1e9, rel=0.02) == placement._AUTOENCODER_GB
    assert pytest.approx(decoder * 4 / 1e9, rel=0.02) == placement._DECODER_GB


class Moved(torch.nn.Linear):
    """Remembers where it was sent."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.places: list[str] = []

    def to(self, place: str) -> "Moved":  # type: ignore[override]
        self.places.append(place)
        return self


def test_an_idle_network_waits_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    frugal = Plan(large="fp16", latents=1, split_guidance=True, offload=True, needs_gb=3.0)
    monkeypatch.setattr(placement, "plan", lambda: frugal)
    monkeypatch.setattr(placement, "device", lambda: "cuda")
    network = Moved()
    placement.place(network)
    with placement.at_work(network) as place:
        assert place == "cuda"
    assert network.places == ["cpu", "cuda", "cpu"]


def test_the_halves_of_guidance_give_what_both_at_once_give() -> None:
    torch.manual_seed(0)
    network = MultiviewUNet(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 32), cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, attention_head_dim=2, class_embed_type="projection", projection_class_embeddings_input_dim=10,
    ).eval()  # fmt: skip
    told = {"condition": torch.randn(1, 4, 8, 8), "channels": 4, "embedding": torch.randn(1, 16), "labels": torch.randn(12, 10)}

    def predict(noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return network(noisy, timestep, encoder_hidden_states=tokens, class_labels=labels, return_dict=False)[0]

    whole, halves = (
        sample(predict, DDIMScheduler(), **told, steps=2, guidance_scale=3.0, seed=0, split_guidance=split)
        for split in (False, True)
    )
    torch.testing.assert_close(whole, halves, atol=1e-4, rtol=1e-4)


def test_the_doctor_says_what_common_gpus_hold() -> None:
    assert [finding.what for finding in plans()][:2] == ["a GPU of 4 GB", "a GPU of 6 GB"]
