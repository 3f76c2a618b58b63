"""Train nerfstudio's NeuS or NeuS-facto on a folder of views and write its signed distance, in nerfstudio's environment.

`python nerfstudio_side.py VIEWS OUT --method neus-facto ...`; VIEWS holds a `transforms.json` in the cube [-1, 1]^3. Nothing of
img2mesh is imported here. After each of the seconds of training in `--at` the field so far is written too.
Seconds are those of the processor, so that they mean the same beside other programs.

nerfstudio 1.1.5 asks for tiny-cuda-nn whatever the settings, which has no CPU build: its own torch hash grid stands in, whose
interpolation is linear. LPIPS, which it downloads to score pictures, is left out.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

_CHUNK = 1 << 16


class _Encoding(torch.nn.Module):
    """What `SDFField` wants of tiny-cuda-nn, in torch."""

    def __init__(self, n_input_dims: int, encoding_config: dict[str, Any]) -> None:
        from nerfstudio.field_components.encodings import HashEncoding

        super().__init__()
        assert n_input_dims == 3
        levels, base = encoding_config["n_levels"], encoding_config["base_resolution"]
        self.grid = HashEncoding(
            num_levels=levels,
            min_res=base,
            max_res=round(base * encoding_config["per_level_scale"] ** (levels - 1)),
            log2_hashmap_size=encoding_config["log2_hashmap_size"],
            features_per_level=encoding_config["n_features_per_level"],
            implementation="torch",
        )
        self.n_output_dims = self.grid.get_out_dim()

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Features at positions in [0, 1]^3."""
        features: torch.Tensor = self.grid(positions)
        return features


def adapted() -> None:
    """Put the stand-ins in place."""
    from nerfstudio.fields import sdf_field
    from torchmetrics.image import lpip

    sdf_field.tcnn = SimpleNamespace(Encoding=_Encoding)
    lpip.LearnedPerceptualImagePatchSimilarity = torch.nn.Identity


def build(method: str, views: int, *, mask: float, normal: float, width: int) -> Any:
    """Nerfstudio's model: its published settings but for the object inside, the mask and the normals.

    Args:
        width: Hidden units of its networks, 256 as published.
    """
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.fields.sdf_field import SDFFieldConfig
    from nerfstudio.models.neus import NeuSModelConfig
    from nerfstudio.models.neus_facto import NeuSFactoModelConfig

    sizes = {"hidden_dim": width, "hidden_dim_color": width, "geo_feat_dim": width}
    shared = {
        "background_model": "none",
        "background_color": "white",
        "fg_mask_loss_mult": mask,
        "mono_normal_loss_mult": normal,
        "eval_num_rays_per_chunk": 1024,
    }
    if method == "neus":
        config: Any = NeuSModelConfig(sdf_field=SDFFieldConfig(inside_outside=False, bias=0.5, **sizes), **shared)
    else:
        field = SDFFieldConfig(
            use_grid_feature=True, num_layers=2, num_layers_color=2, bias=0.5, beta_init=0.3, inside_outside=False, **sizes
        )
        config = NeuSFactoModelConfig(sdf_field=field, **shared)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    return config.setup(scene_box=box, num_train_data=views)


def read(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Cameras and pixels, through nerfstudio's own parser."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from PIL import Image

    parser = NerfstudioDataParserConfig(
        data=folder,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        eval_mode="all",
        load_3D_points=False,
    ).setup()
    outputs = parser.get_dataparser_outputs(split="train")
    files = outputs.image_filenames
    rgba = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGBA")) for file in files])).float() / 255
    data = {"image": rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:], "fg_mask": rgba[..., 3:]}
    maps = [file.parent.parent / "normals" / file.name for file in files]
    if all(file.is_file() for file in maps):
        normals = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in maps])).float() / 127.5 - 1
        data["normal"] = torch.nn.functional.normalize(normals, dim=-1) * (rgba[..., 3:] > 0.5)
    return outputs.cameras, data


def steps(model: Any, cameras: Any, data: dict[str, torch.Tensor], arguments: argparse.Namespace) -> Iterator[int]:
    """Train; yields the number of each step."""
    from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation

    attributes = TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=None, trainer=None)
    callbacks = model.get_training_callbacks(attributes)
    groups = model.get_param_groups()
    rates = {"proposal_networks": 1e-2}
    optimiser = torch.optim.Adam(
        [{"params": list(params), "lr": rates.get(name, arguments.rate)} for name, params in groups.items()], eps=1e-15
    )
    generator = torch.Generator().manual_seed(arguments.seed)
    views, height, width = data["fg_mask"].shape[:3]
    model.train()
    for step in range(arguments.steps):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        chosen = torch.randint(views * height * width, (arguments.rays,), generator=generator)
        view, row, column = chosen // (height * width), chosen // width % height, chosen % width
        bundle = cameras.generate_rays(camera_indices=view[:, None], coords=torch.stack([row, column], dim=-1) + 0.5)
        batch = {name: values[view, row, column] for name, values in data.items()}
        outputs = model(bundle)
        loss = sum(model.get_loss_dict(outputs, batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        yield step


def sdf_grid(model: Any, resolution: int) -> np.ndarray:
    """Signed distances [z, y, x] on the corners of a grid over [-1, 1]^3, positive outside."""
    line = torch.linspace(-1, 1, resolution)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    with torch.no_grad():
        values = torch.cat([model.field.forward_geonetwork(part)[:, 0] for part in points.split(_CHUNK)])
    return values.reshape(resolution, resolution, resolution).numpy().astype(np.float32)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("views", type=Path)
    parser.add_argument("out", type=Path, help="folder of the fields, one <seconds>.npz each and result.npz at the end")
    parser.add_argument("--method", choices=("neus", "neus-facto"), default="neus-facto")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then, whatever the number of steps")
    parser.add_argument("--at", type=float, nargs="*", default=[], help="seconds of training after which a field is written")
    parser.add_argument("--rays", type=int, default=512)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the fields")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--mask", type=float, default=1.0)
    parser.add_argument("--normal", type=float, default=0.5)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    adapted()
    cameras, data = read(arguments.views)
    model = build(arguments.method, len(data["image"]), mask=arguments.mask, normal=arguments.normal, width=arguments.width)
    spent, due, mark, step = 0.0, sorted(arguments.at), time.process_time(), -1
    for step in steps(model, cameras, data, arguments):
        now = time.process_time()
        spent, mark = spent + now - mark, now
        if due and spent >= due[0]:
            _write(arguments.out / f"at_{due.pop(0):g}.npz", model, arguments.resolution, spent, step + 1)
            mark = time.process_time()
        if spent >= arguments.seconds:
            break
    _write(arguments.out / "result.npz", model, arguments.resolution, spent, step + 1)


def _write(path: Path, model: Any, resolution: int, seconds: float, step: int) -> None:
    np.savez(path, sdf=sdf_grid(model, resolution), seconds=seconds, step=step)


if __name__ == "__main__":
    main()
