"""The mesh export over many solids in one process: each asset's defects, seconds and the growth of memory.

`python -m benchmarks.export` takes an analytic bumpy ball. With a folder of `img2mesh data render` it takes real objects: the
solids that their six true depth maps leave, painted from their six true views, one front of each object. Nothing is generated.
Each asset is a line of JSON in `--out`; a second run goes on where the first ended. `--gltf-validator DIR` names a folder of
node modules with gltf-validator, `--3dqa PATH` the program of that name.
"""

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from img2mesh.data.dataset import RenderedObjects
from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import orbit, project
from img2mesh.geometry.views import Views
from img2mesh.mesh.clean import Silhouette, clean, drop_specks
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.export import FORMATS, write_files
from img2mesh.mesh.extract import extract
from img2mesh.mesh.intersections import intersecting_faces
from img2mesh.mesh.render import bilinear, render
from img2mesh.mesh.texture import bake, source_of_vertices
from img2mesh.mesh.topology import Mesh, defects, face_components
from img2mesh.mesh.uv import TexturedMesh, unwrap
from img2mesh.metrics.image import silhouette_iou
from img2mesh.neus.grid import corner_points, spacing
from img2mesh.neus.hull import build_hull

VIEW_PX = 128
PICTURE_PX = 512
# Every so many objects of the training split, so that all kinds come.
TRAIN_STRIDE = 17
# A depth map is believed this far from its own surface, voxels.
REACH_VOXELS = 3.0


def bumpy_ball(resolution: int) -> np.ndarray:
    line = np.linspace(-1, 1, resolution)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    return np.sqrt(x**2 + y**2 + z**2) - 0.65 + 0.06 * np.sin(11 * x) * np.sin(9 * y) * np.sin(10 * z)


def striped(size_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour [3, height, width] and coverage of a striped disc."""
    line = torch.linspace(-1, 1, size_px)
    alpha = ((line[:, None] ** 2 + line[None] ** 2).sqrt() < 0.68).float()
    stripes = torch.sin(line * 20)[None, :, None] * torch.tensor([0.4, 0.2, 0.1])[:, None, None] + 0.5
    return stripes.expand(3, size_px, size_px) * alpha + 1 - alpha, alpha


@dataclass(kw_only=True)
class Case:
    """One solid with what it is painted from; the front is the picture."""

    name: str
    sdf: np.ndarray
    views: Views


def ball(resolution: int) -> Case:
    rgb, alpha = striped(VIEW_PX)
    views = Views(
        cameras=orbit(size_px=VIEW_PX),
        rgb=rgb.expand(6, -1, -1, -1),
        alpha=alpha.expand(6, -1, -1),
        normals=torch.zeros(6, 3, VIEW_PX, VIEW_PX),
    )
    return Case(name="bumpy ball", sdf=bumpy_ball(resolution), views=views)


def objects(folder: Path, resolution: int, count: int, done: set[str]) -> Iterator[Case]:
    """The first front of every object of val, then of train, that is not done."""
    for split, stride in (("val", 1), ("train", TRAIN_STRIDE)):
        rendered = RenderedObjects(folder, split)
        firsts = [item for item, (_, front) in enumerate(rendered.items) if front == 0][::stride]
        for item in firsts[:count]:
            name = f"{split}/{rendered.items[item][0].stem}"
            count -= 1
            if name in done:
                continue
            sample = rendered.load(item)
            views = Views(
                cameras=orbit(size_px=sample.alpha.shape[-1]), rgb=sample.rgb, alpha=sample.alpha, normals=sample.normals
            )
            try:
                sdf = fused(views, sample.depth, resolution)
            except NumericalError as error:
                print(f"{name}: {error}")
                continue
            yield Case(name=name, sdf=sdf, views=views)


def fused(views: Views, depth: torch.Tensor, resolution: int) -> np.ndarray:
    """What neither the masks nor the depth maps carve away, as distances on the corners of a grid."""
    reach = REACH_VOXELS * spacing(resolution)
    solid = build_hull(views.cameras, views.alpha, slack_px=0.0).on_grid(resolution)[0].reshape(-1).clamp(-reach, reach)
    points = corner_points(torch.arange(resolution**3), resolution)
    for view in range(len(views)):
        pixels, z = project(views.cameras[[view]], points[None])
        x, y = (pixels[0, :, axis].long().clamp(0, side - 1) for axis, side in enumerate(depth.shape[:0:-1]))
        first = depth[view, y, x]
        solid = torch.where(first > 0, torch.maximum(solid, (first - z[0]).clamp(-reach, reach)), solid)
    return solid.reshape((resolution,) * 3).numpy()


@dataclass(kw_only=True)
class Clock:
    """Processor and wall seconds of each step."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    started: tuple[float, float] = (0.0, 0.0)

    def lap(self, name: str = "") -> None:
        """End the step of this name."""
        now = (time.process_time(), time.perf_counter())
        if name:
            self.cpu[name], self.wall[name] = (round(b - a, 3) for a, b in zip(self.started, now, strict=True))
        self.started = now


def exported(case: Case, config: ExportConfig, out: Path) -> dict[str, object]:
    """Write one asset below `out` and return its row."""
    front = torch.cat([case.views.rgb[0], case.views.alpha[:1]]).movedim(0, -1)
    picture = (front * 255).round().to(torch.uint8).numpy()
    camera = case.views.cameras[[0]]
    shown = Silhouette(camera=camera, alpha=picture[..., 3])
    clock = Clock()
    clock.lap()
    surface = extract(case.sdf)
    clock.lap("extract")
    cleaned = clean(surface, faces=config.faces, speck_share=config.speck_share, picture=shown)
    clock.lap("clean")
    unwrapped = unwrap(cleaned.mesh, config.texture_px)
    clock.lap("unwrap")
    textured = bake(unwrapped, case.views, picture, config)
    clock.lap("bake")
    files = write_files(textured, FORMATS, {"tool": "benchmark"})
    clock.lap("files")
    folder = out / case.name.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    alpha = torch.from_numpy(render(textured, camera, supersample=1).alpha[0])
    return {
        "name": case.name,
        "extracted_faces": len(surface.faces),
        "faces": len(cleaned.mesh.faces),
        "front_iou": round(silhouette_iou(alpha, case.views.alpha[0]), 4),
        "cpu_s": clock.cpu,
        "wall_s": clock.wall,
        **soundness(cleaned.mesh, config, shown),
        **seams(textured, case.views, picture, config),
        "rss_mib": rss_mib(),
    }


def soundness(mesh: Mesh, config: ExportConfig, shown: Silhouette) -> dict[str, object]:
    """What is wrong with a mesh, by our own measures and by those of trimesh and pymeshlab."""
    import pymeshlab
    import trimesh

    other = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces.astype(np.int32)))
    meshes.compute_selection_by_self_intersections_per_face()
    return {
        "defects": defects(mesh),
        "watertight": bool(other.is_watertight),
        "one_winding": bool(other.is_winding_consistent),
        "outward": bool(other.volume > 0),
        "intersecting": int(intersecting_faces(mesh).sum()),
        "intersecting_pymeshlab": int(meshes.current_mesh().selected_face_number()),
        "components": int(face_components(mesh).max() + 1),
        "specks": int((face_components(mesh).max()) - face_components(drop_specks(mesh, config.speck_share, shown)).max()),
    }


def seams(textured: TexturedMesh, views: Views, picture: np.ndarray, config: ExportConfig) -> dict[str, float]:
    """Mean difference of colour, of 255, along edges whose ends are coloured by two views, by one, and by nobody and some view.

    A seam is visible as far as the first exceeds the second.
    """
    mesh = textured.mesh
    sources = source_of_vertices(mesh, views, picture, config)
    colours = bilinear(textured.texture, mesh.uv)
    edges = np.unique(np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    jumps = np.abs(colours[edges[:, 0]] - colours[edges[:, 1]]).mean(axis=1)
    one, other = sources[edges].T
    seen = (one >= 0) & (other >= 0)
    groups = {
        "two_views": seen & (one != other),
        "one_view": seen & (one == other),
        "rim_of_the_unseen": (one < 0) != (other < 0),
    }
    return {f"jump_{name}": round(float(jumps[chosen].mean()), 2) for name, chosen in groups.items() if chosen.any()}


def rss_mib() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def validated(glbs: list[Path], modules: Path) -> dict[str, int]:
    """Errors and warnings of the Khronos validator together, by folder."""
    script = """const fs = require('fs'), v = require('gltf-validator');
(async () => { for (const f of process.argv.slice(1)) {
  const i = (await v.validateBytes(new Uint8Array(fs.readFileSync(f)))).issues;
  console.log(i.numErrors + i.numWarnings); } })();"""
    done = subprocess.run(
        ["node", "-e", script, *map(str, glbs)],
        env={"NODE_PATH": str(modules), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    return {glb.parent.name: int(line) for glb, line in zip(glbs, done.stdout.split(), strict=True)}


def linted(glbs: list[Path], program: Path) -> dict[str, list[str]]:
    """Codes of failed checks of 3dqa, by folder."""
    found = {}
    for glb in glbs:
        done = subprocess.run([program, "lint", glb], capture_output=True, check=False)
        found[glb.parent.name] = [check["code"] for check in json.loads(done.stdout)["findings"] if not check["passed"]]
    return found


def summary(rows: list[dict[str, object]], out: Path, modules: Path | None, program: Path | None) -> None:
    sound = [not row["defects"] and row["watertight"] and row["one_winding"] and row["outward"] for row in rows]
    print(f"{len(rows)} assets, {sum(sound)} watertight 2-manifolds wound outward without degenerate faces")
    for name in ("intersecting", "intersecting_pymeshlab", "specks"):
        print(f"{sum(row[name] > 0 for row in rows)} with {name}")
    cpu = np.array([sum(row["cpu_s"].values()) for row in rows])
    print(f"seconds of processor: median {np.median(cpu):.1f}, 95% {np.quantile(cpu, 0.95):.1f}, worst {cpu.max():.1f}")
    print(
        "median of each step:",
        {step: round(float(np.median([row["cpu_s"][step] for row in rows])), 2) for step in rows[0]["cpu_s"]},
    )
    print(
        f"faces over budget: {sum(row['faces'] > 20_000 for row in rows)}; front IoU median",
        np.median([row["front_iou"] for row in rows]),
    )
    print(
        "resident MiB after each tenth of the assets:",
        [row["rss_mib"] for row in rows[:: max(1, len(rows) // 10)]],
        rows[-1]["rss_mib"],
    )
    glbs = sorted(out.glob("*/mesh.glb"))
    if modules:
        issues = validated(glbs, modules)
        print(f"gltf-validator: {sum(issues.values())} errors and warnings in {len(issues)} files")
    if program:
        failed = {name: codes for name, codes in linted(glbs, program).items() if codes}
        print(f"3dqa: {len(failed)} of {len(glbs)} with defects", failed or "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", type=Path, nargs="?", help="folder of `img2mesh data render`")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("export-benchmark"))
    parser.add_argument("--resolution", type=int, default=128, help="corners along each side of the grid")
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--texture-px", type=int, default=1024)
    parser.add_argument("--gltf-validator", type=Path)
    parser.add_argument("--3dqa", type=Path, dest="linter")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = ExportConfig(faces=given.faces, texture_px=given.texture_px)
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "rows.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["name"] for row in rows}
    cases = objects(given.rendered, given.resolution, given.count, done) if given.rendered else iter([ball(given.resolution)])
    for case in cases:
        rows.append(exported(case, config, given.out))
        with log.open("a") as lines:
            lines.write(json.dumps(rows[-1]) + "\n")
    summary(rows, given.out, given.gltf_validator, given.linter)


if __name__ == "__main__":
    main()
