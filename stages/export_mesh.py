"""The mesh files: the surface extracted, cleaned, unwrapped, painted, written, and scored against the input picture."""

from typing import TYPE_CHECKING

from img2mesh.manifests import MeshAsset, Model, Surface
from img2mesh.mesh.config import ExportConfig
from img2mesh.presets import Preset
from img2mesh.stage import Stage, main
from img2mesh.storage import Store

if TYPE_CHECKING:
    import numpy as np

    from img2mesh.geometry.cameras import Cameras
    from img2mesh.mesh.topology import Mesh
    from img2mesh.mesh.uv import TexturedMesh

MEDIA_TYPES = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".png": "image/png",
    ".ply": "application/octet-stream",
    ".usdz": "model/vnd.usdz+zip",
    ".stl": "model/stl",
}


class Params(Model):
    """Everything that changes the bytes of the output.

    Attributes:
        model: Which made the views, for the provenance in the files.
    """

    config: ExportConfig = ExportConfig()
    formats: tuple[str, ...] = ("glb", "obj")
    model: str = "unknown"

    @classmethod
    def of(cls, preset: Preset, *, seed: int, formats: tuple[str, ...] = ("glb", "obj")) -> "Params":
        """The preset's parameters with the formats to write; nothing here is random."""
        del seed
        return cls(config=preset.export_mesh, formats=formats, model=f"{preset.generator.name} {preset.generator.sha256}")


def run(inputs: Surface, params: Params, store: Store) -> MeshAsset:
    """Extract, clean, unwrap, bake, set upright, write, preview, score."""
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import PurePosixPath

    import torch

    from img2mesh import codec
    from img2mesh.geometry.cameras import upright_from_front
    from img2mesh.mesh.clean import Silhouette, clean, levels
    from img2mesh.mesh.export import check_formats, png, write_files
    from img2mesh.mesh.extract import extract
    from img2mesh.mesh.preview import sheet
    from img2mesh.mesh.texture import bake
    from img2mesh.mesh.uv import unwrap
    from img2mesh.neus.silhouette import refined

    check_formats(params.formats)
    specs = inputs.source.source.source.cameras
    views = codec.get_views(store, inputs.source.views, specs)
    picture = codec.get_rgba(store, inputs.source.source.source.source.image)
    alpha = torch.from_numpy(picture[..., 3].copy()).float() / 255
    field = refined(codec.get_tensors(store, inputs.field)["sdf"], views.cameras, alpha, params.config.resolution)
    surface = extract(field.numpy())
    shown = Silhouette(camera=views.cameras[[0]], alpha=picture[..., 3])
    config, elevation_deg = params.config, inputs.source.source.source.front_elevation_deg
    cleaned = clean(surface, faces=config.faces, speck_share=config.speck_share, picture=shown, remesh=config.remesh)
    meshes = levels(cleaned, config.lods)
    provenance = _provenance(inputs, params.model, cleaned.reduced_by)
    names = [spec.name for spec in specs]
    # Files are encoded beside the rendering.
    with ThreadPoolExecutor(1) as pool:
        written = []
        for stem, mesh in reversed(meshes.items()):
            textured = bake(unwrap(mesh, config.texture_px), views, picture, config)
            standing = textured.turned(upright_from_front(elevation_deg))
            written.append(pool.submit(write_files, standing, params.formats, provenance, stem=stem))
        preview = png(sheet(standing, views, picture, names, config.preview_px))
        front_scores = _front_scores(textured, views.cameras[[0]], picture)
        files = {name: data for part in written for name, data in part.result().items()}
    files["preview.png"] = preview
    coarser = {f"faces{stem.removeprefix('mesh')}": float(len(mesh.faces)) for stem, mesh in meshes.items() if stem != "mesh"}
    return MeshAsset(
        source=inputs,
        files={name: store.put_blob(data, MEDIA_TYPES[PurePosixPath(name).suffix]) for name, data in files.items()},
        scores={**_mesh_scores(cleaned.mesh), **coarser, **front_scores, "front_elevation_deg": round(elevation_deg, 1)},
    )


def _provenance(inputs: Surface, model: str, reduced_by: str) -> dict[str, str | bool]:
    import img2mesh

    source = inputs.source.source.source.source.source
    return {
        "tool": f"img2mesh {img2mesh.__version__}",
        "inputName": source.name,
        "inputSha256": source.image.sha256,
        "model": model,
        "reducedBy": reduced_by,
        "aiGenerated": True,
        "units": "unmeasured; the picture spans two, the pictured side faces +Z",
    }


def _mesh_scores(mesh: "Mesh") -> dict[str, float]:
    from img2mesh.mesh.topology import defects, face_components

    return {
        "faces": float(len(mesh.faces)),
        "vertices": float(len(mesh.vertices)),
        "components": float(face_components(mesh).max() + 1),
        "watertight": float(not defects(mesh)),
    }


def _front_scores(textured: "TexturedMesh", front: "Cameras", picture: "np.ndarray") -> dict[str, float]:
    """The mesh through the front camera against the input picture, at the picture's size."""
    import torch

    from img2mesh.mesh.render import render
    from img2mesh.metrics.image import masked_psnr, silhouette_iou

    renders = render(textured, front.resized(picture.shape[1], picture.shape[0]))
    truth = torch.from_numpy(picture.copy()).movedim(-1, 0).float() / 255
    ours, alpha = torch.from_numpy(renders.rgb[0]).movedim(-1, 0), torch.from_numpy(renders.alpha[0])
    both = (alpha > 0.5) & (truth[3] > 0.5)
    return {
        "front_iou": round(silhouette_iou(alpha, truth[3]), 4),
        "front_psnr_db": round(masked_psnr(ours, truth[:3], both), 2),
    }


STAGE = Stage(name="export_mesh", version=5, inputs=Surface, params=Params, outputs=MeshAsset, run=run)

if __name__ == "__main__":
    main(STAGE)
