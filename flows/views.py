"""`img2mesh reconstruct`: posed pictures of one object become its mesh, in the frame and the units of their cameras."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import img2mesh
from flows.assets import pretty_json
from img2mesh.data.posed import Posed, read_posed
from img2mesh.errors import NumericalError
from img2mesh.geometry.normalisation import Similarity, around_object
from img2mesh.geometry.views import Views
from img2mesh.mesh.clean import clean, levels
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.export import UPRIGHT, check_formats, png, write_files
from img2mesh.mesh.extract import extract
from img2mesh.mesh.preview import sheet
from img2mesh.mesh.render import render
from img2mesh.mesh.texture import bake
from img2mesh.mesh.uv import TexturedMesh, unwrap
from img2mesh.metrics.image import masked_psnr, silhouette_iou
from img2mesh.neus.config import Method
from img2mesh.neus.fit import fit
from img2mesh.neus.surface import Surface
from img2mesh.presets import true_views
from img2mesh.storage import write_durably

_SHOWN = 6
_Y_UP_FROM_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """The files by name and the scores against the given views."""

    files: dict[str, bytes]
    scores: dict[str, float]


def reconstruct(
    folder: Path,
    *,
    formats: Sequence[str],
    config: ExportConfig,
    seed: int,
    tell: Callable[[str], None],
    method: Method = "native",
    keep: Path | None = None,
) -> Reconstructed:
    """The mesh of the views in a folder.

    Args:
        config: Of the mesh and its texture.
        tell: Is told what is being done.
        method: What fits the surface.
        keep: File in which the fit keeps its progress.

    Raises:
        InputError: The folder cannot be read as posed views, or a format is unknown.
        NumericalError: No surface was found with two seeds.
    """
    check_formats(formats)
    started = time.monotonic()
    posed = read_posed(folder)
    tell(f"{len(posed.views)} views of {posed.views.cameras.width_px} x {posed.views.cameras.height_px} pixels; fitting")
    scene = around_object(posed.views.cameras, posed.views.alpha)
    views = replace(posed.views, cameras=scene.to_cube(posed.views.cameras))
    surface, reason = _fitted(views, method, seed, tell, keep)
    tell("painting")
    surface_mesh = extract(surface.sdf_grid(config.resolution).numpy())
    cleaned = clean(surface_mesh, faces=config.faces, speck_share=config.speck_share, remesh=config.remesh)
    files: dict[str, bytes] = {}
    digest = _digest(folder)
    for stem, mesh in reversed(levels(cleaned, config.lods).items()):
        textured = bake(unwrap(mesh, config.texture_px), views, None, config)
        files |= _written(textured, scene, posed, formats, digest, stem)
    scores = _scores(textured, views)
    files["preview.png"] = png(_preview(textured, views, posed.names, config.preview_px))
    report = {
        "kind": "reconstruction/v1",
        "tool": f"img2mesh {img2mesh.__version__}",
        "views": list(posed.names),
        "up": posed.up,
        "scene": {"centre": scene.centre.tolist(), "scale": scene.scale},
        "neus": method,
        "seed": seed,
        "retries": [reason] if reason else [],
        "scores": scores,
        "seconds": round(time.monotonic() - started, 2),
    }
    return Reconstructed(files={**files, "report.json": pretty_json(report)}, scores=scores)


def write(files: dict[str, bytes], out: Path) -> None:
    """Put the files into a folder, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".img2mesh-", dir=out))
    try:
        for name, data in files.items():
            write_durably(staged / name, data)
        for name in files:
            os.replace(staged / name, out / name)
    finally:
        shutil.rmtree(staged)


def _fitted(views: Views, method: Method, seed: int, tell: Callable[[str], None], keep: Path | None) -> tuple[Surface, str]:
    """The surface, and why the first seed gave none."""
    config = true_views(len(views)).model_copy(update={"method": method})
    try:
        return fit(views, config, seed=seed, keep=keep), ""
    except NumericalError as error:
        tell(f"{error}; trying seed {seed + 1}")
        return fit(views, config, seed=seed + 1, keep=keep), f"seed {seed}: {error}"


def _digest(folder: Path) -> str:
    """SHA-256 of the folder's files, each by name and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _written(
    textured: TexturedMesh, scene: Similarity, posed: Posed, formats: Sequence[str], digest: str, stem: str
) -> dict[str, bytes]:
    """Mesh files at true scale and place; GLB and USDZ are +Y up, as the formats ask, the others keep the given frame."""
    import torch

    vertices = scene.to_world(torch.from_numpy(textured.mesh.vertices)).numpy()
    given = replace(textured, mesh=replace(textured.mesh, vertices=vertices))
    provenance: dict[str, str | bool] = {
        "tool": f"img2mesh {img2mesh.__version__}",
        "inputSha256": digest,
        "model": "none: a surface fitted to the given views",
        "aiGenerated": False,
        "units": "those of the given cameras",
        "givenUpAxis": f"+{posed.up.upper()}",
    }
    upright = [name for name in formats if name in UPRIGHT]
    standing = given if posed.up == "y" else given.turned(_Y_UP_FROM_Z_UP)
    files = write_files(standing, upright, provenance, stem=stem) if upright else {}
    others = [name for name in formats if name not in UPRIGHT]
    return files | (write_files(given, others, provenance, up=f"+{posed.up.upper()}", stem=stem) if others else {})


def _scores(textured: TexturedMesh, views: Views) -> dict[str, float]:
    """Means over the views of what renders of the mesh share with them."""
    import torch

    renders = render(textured, views.cameras, supersample=1)
    alpha = torch.from_numpy(renders.alpha)
    rgb = torch.from_numpy(renders.rgb).movedim(-1, 1)
    ious = [silhouette_iou(ours, given) for ours, given in zip(alpha, views.alpha, strict=True)]
    opaque = (alpha > 0.5) & (views.alpha > 0.99)
    psnrs = [masked_psnr(ours, given, mask) for ours, given, mask in zip(rgb, views.rgb, opaque, strict=True)]
    return {
        "silhouette_iou": round(float(np.mean(ious)), 4),
        "silhouette_iou_worst": round(min(ious), 4),
        "psnr_db": round(float(np.mean(psnrs)), 2),
        "faces": float(len(textured.mesh.faces)),
    }


def _preview(textured: TexturedMesh, views: Views, names: Sequence[str], width_px: int) -> np.ndarray:
    import torch

    chosen = np.linspace(0, len(views) - 1, min(_SHOWN, len(views))).round().astype(int).tolist()
    shown = Views(
        cameras=views.cameras[chosen], rgb=views.rgb[chosen], alpha=views.alpha[chosen], normals=views.normals[chosen]
    )
    opaque = torch.cat([views.rgb[0], torch.ones_like(views.alpha[:1])]).movedim(0, -1)
    return sheet(textured, shown, (opaque * 255).round().to(torch.uint8).numpy(), [names[i] for i in chosen], width_px)
