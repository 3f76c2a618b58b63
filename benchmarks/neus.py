"""Surfaces from true views against what these views can show at best: `python -m benchmarks.neus ceiling|noisy|compare`.

`ceiling`: the hull of the masks, the solid fused from the true depth maps, and the fit; `noisy`: the fit to spoilt views;
`compare`: the fit and nerfstudio's on the same views and machine. Objects are those that `img2mesh data render --limit` takes.
One line of JSON an object is appended to --out; objects that are there already are only reported.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.alone import fitted_alone
from img2mesh.data.objects import ObjectEntry, list_objects, load_object
from img2mesh.data.render import place, render_views
from img2mesh.errors import NumericalError
from img2mesh.evaluation.ceiling import fused, hull
from img2mesh.evaluation.meshes import triangles_of
from img2mesh.evaluation.report import interval
from img2mesh.geometry.cameras import Cameras, orbit
from img2mesh.geometry.views import Views
from img2mesh.mesh.extract import extract
from img2mesh.metrics.protocols import score_visible
from img2mesh.metrics.statistics import estimate
from img2mesh.metrics.visible import Triangles
from img2mesh.neus.config import Nerfstudio
from img2mesh.neus.nerfstudio import run as run_nerfstudio

RESOLUTION = 192
# Perspective views: field of view, elevations, azimuths at each.
VIEW_DEG, ELEVATIONS_DEG, AZIMUTHS = 40.0, (10.0, 40.0), 8


def perspective(size_px: int) -> Cameras:
    """Eight cameras at each of two elevations, which look at the origin from as far as the unit ball's sphere fits the view."""
    rings = [
        orbit([360 * (i + 0.5 * ring) / AZIMUTHS for i in range(AZIMUTHS)], size_px=size_px, elevation_deg=elevation)
        for ring, elevation in enumerate(ELEVATIONS_DEG)
    ]
    pose = torch.cat([ring.world_from_camera for ring in rings])
    half = math.radians(VIEW_DEG) / 2
    pose[:, :3, 3] = -pose[:, :3, 2] * 1.3 / math.sin(half)
    count = len(pose)
    return Cameras(
        projection="perspective",
        world_from_camera=pose,
        focal_px=torch.full((count,), size_px / 2 / math.tan(half)),
        centre_px=torch.full((count, 2), size_px / 2),
        width_px=size_px,
        height_px=size_px,
    )


def seen(entry: ObjectEntry, cameras: Cameras) -> tuple[Views, torch.Tensor, Triangles]:
    """True views of an object, their depth, and the object."""
    obj = place(load_object(entry.read()))
    rendered = render_views(obj, cameras)
    rgba = torch.from_numpy(rendered.rgba).float().movedim(-1, 1) / 255
    alpha = rgba[:, 3]
    views = Views(
        cameras=cameras,
        rgb=rgba[:, :3] * alpha[:, None] + 1 - alpha[:, None],
        alpha=alpha,
        normals=torch.from_numpy(rendered.normals).movedim(-1, 1) * (alpha > 0.5)[:, None],
    )
    return views, torch.from_numpy(rendered.depth), triangles_of(obj)


def scored(field: torch.Tensor, truth: Triangles) -> dict[str, float]:
    """IoU and Chamfer distance of a field's surface; the worst there is where there is none."""
    try:
        mesh = extract(field.numpy())
    except NumericalError:
        return {"iou": 0.0, "chamfer": 0.5}
    scores = score_visible(Triangles(vertices=mesh.vertices, faces=mesh.faces), truth)
    return {"iou": scores["volume_iou"], "chamfer": scores["chamfer"]}


def fitted(views: Views, truth: Triangles) -> dict[str, float]:
    """Scores of the fit, with its seconds and the peak memory of a process of its own."""
    try:
        field, spent = fitted_alone(views, RESOLUTION, torch.get_num_threads())
    except subprocess.CalledProcessError as error:
        print(error, file=sys.stderr)
        return scored(torch.ones(8, 8, 8), truth)
    return {**scored(field, truth), **spent}


def ceiling(views: Views, depth: torch.Tensor, truth: Triangles, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the fit, of the hull it starts from, and of what is the best possible."""
    return {
        "fit": fitted(views, truth),
        "hull": scored(hull(views.cameras, views.alpha, RESOLUTION), truth),
        "ceiling": scored(fused(views.cameras, views.alpha, depth, RESOLUTION), truth),
    }


def spoilt(views: Views) -> dict[str, Views]:
    """The views with one thing wrong."""
    shifted, wrong = [getattr(views, name).clone() for name in ("rgb", "alpha", "normals")], views.normals.clone()
    for image in shifted:
        image[1] = image[1].roll(4, dims=-1)
    wrong[2] = F.normalize(torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(0)), dim=0) * (views.alpha[2] > 0.5)
    return {
        "exact": views,
        "one view shifted by 4 px": replace(views, rgb=shifted[0], alpha=shifted[1], normals=shifted[2]),
        "one wrong normal map": replace(views, normals=wrong),
        "masks with holes": with_holes(views),
    }


def with_holes(views: Views, count: int = 3, radius_px: float = 5.0) -> Views:
    """Round holes in every mask but the front's, at random places of the foreground."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones_like(views.alpha)
    for view in range(1, len(views)):
        places = (views.alpha[view] > 0.5).nonzero()
        for place_at in places[torch.randint(len(places), (count,), generator=generator)]:
            grid = torch.stack(torch.meshgrid(*map(torch.arange, views.alpha.shape[1:]), indexing="ij"), dim=-1)
            keep[view][(grid - place_at).float().norm(dim=-1) < radius_px] = 0
    rgb = views.rgb * keep[:, None] + 1 - keep[:, None]
    return replace(views, rgb=rgb, alpha=views.alpha * keep, normals=views.normals * keep[:, None])


def noisy(views: Views, depth: torch.Tensor, truth: Triangles, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the fit to exact and to spoilt views."""
    return {name: fitted(bad, truth) for name, bad in spoilt(views).items()}


def compare(views: Views, depth: torch.Tensor, truth: Triangles, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the fit, and of nerfstudio's after multiples of its time on the processor."""
    native = fitted(views, truth)
    at = tuple(float(round(native["cpu_s"] * times)) for times in arguments.times)
    rows: dict[str, Any] = {"native": native}
    with tempfile.TemporaryDirectory() as name:
        options: dict[str, object] = {"method": arguments.method, "steps": 10**6, "seconds": at[-1] + 1, "at": at}
        options |= {"rays": Nerfstudio().rays, "width": arguments.width, "resolution": arguments.resolution}
        run_nerfstudio(views, Path(name), options)
        for seconds in at:
            stored = np.load(Path(name) / f"at_{seconds:g}.npz")
            field = torch.from_numpy(stored["sdf"])
            rows[f"{arguments.method} {seconds:g} s"] = {
                **scored(
                    F.interpolate(field[None, None], size=(RESOLUTION,) * 3, mode="trilinear", align_corners=True)[0, 0], truth
                ),
                "cpu_s": float(stored["seconds"]),
                "steps": int(stored["step"]),
            }
    return rows


MEASURES = {"ceiling": ceiling, "noisy": noisy, "compare": compare}


def told(rows: list[dict[str, Any]]) -> None:
    """Print means with 95% intervals, and for a ceiling its ratios."""
    for method in rows[0]["scores"]:
        of = [row["scores"][method] for row in rows if method in row["scores"]]
        keys = [key for key in of[0] if all(key in o for o in of)]
        parts = [f"{key} {interval(estimate([o[key] for o in of]), 4)}" for key in keys]
        print(f"{method:<26}" + "  ".join(parts))
    if "ceiling" not in rows[0]["scores"]:
        return
    mean = {
        name: {key: np.mean([row["scores"][name][key] for row in rows]) for key in ("iou", "chamfer")}
        for name in ("fit", "ceiling")
    }
    shares = [row["scores"]["fit"]["iou"] / row["scores"]["ceiling"]["iou"] for row in rows]
    gains = [row["scores"]["fit"]["iou"] - row["scores"]["hull"]["iou"] for row in rows]
    print(
        f"IoU / ceiling's: of the means {mean['fit']['iou'] / mean['ceiling']['iou']:.3f}, each {interval(estimate(shares), 3)}"
    )
    print(f"Chamfer / ceiling's, of the means: {mean['fit']['chamfer'] / mean['ceiling']['chamfer']:.3f}")
    print(f"IoU above the hull's: {interval(estimate(gains), 4)}; no worse than it: {np.mean(np.array(gains) > -0.002):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(MEASURES), nargs="?", default="ceiling")
    parser.add_argument("--objects", type=Path, default=None, help="folder with index.jsonl, or with .glb files")
    parser.add_argument("--split", default=None)
    parser.add_argument("--source", default=None, help="only sources whose name starts with this")
    parser.add_argument("--skip", type=int, default=0, help="leave so many objects out, in the order of img2mesh data render")
    parser.add_argument("--limit", type=int, default=24, help="the first so many objects of the others")
    parser.add_argument("--only", default="", help="only objects with this in their id")
    parser.add_argument("--without", nargs="*", default=[], help="no objects with these in their ids")
    parser.add_argument("--views", choices=("six", "perspective"), default="six")
    parser.add_argument("--size-px", type=int, default=256)
    parser.add_argument("--method", choices=("neus", "neus-facto"), default="neus-facto", help="of nerfstudio")
    parser.add_argument("--width", type=int, default=256, help="of nerfstudio's layers")
    parser.add_argument("--times", type=float, nargs="+", default=[1, 3, 10], help="nerfstudio's time, in fits of ours")
    parser.add_argument("--resolution", type=int, default=128, help="of the grid on which nerfstudio's field is read")
    parser.add_argument("--out", type=Path, default=None, help="file of JSON lines to append to, and to go on from")
    arguments = parser.parse_args()
    if arguments.objects is None:
        print("nothing to measure: give --objects, a folder of .glb files")
        return
    entries = list_objects(arguments.objects, split=arguments.split, source=arguments.source)
    entries = [e for e in entries if arguments.only in e.id]
    order = np.random.default_rng(0).permutation(len(entries))
    chosen = [entries[i] for i in order[arguments.skip :][: arguments.limit]]
    chosen = [e for e in chosen if not any(name in e.id for name in arguments.without)]
    cameras = orbit(size_px=arguments.size_px) if arguments.views == "six" else perspective(arguments.size_px)
    out = arguments.out
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out and out.exists() else []
    for entry in chosen:
        if entry.id not in {row["id"] for row in rows}:
            rows.append({"id": entry.id, "scores": MEASURES[arguments.what](*seen(entry, cameras), arguments)})
            print(json.dumps(rows[-1]), flush=True)
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    told(rows)


if __name__ == "__main__":
    main()
