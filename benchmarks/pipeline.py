"""Time, memory and front scores of whole images in one process, warm after the first.

`python -m benchmarks.pipeline examples/images`, or with `--objects OBJECTS --count 12` the fronts of held-out objects.
"""

import argparse
import io
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from flows.reconstruct import stages_of
from img2mesh import presets
from img2mesh.data.objects import list_objects, load_object
from img2mesh.data.render import place, render_views
from img2mesh.geometry.cameras import orbit
from img2mesh.manifests import MeshAsset, Model, SourceImage
from img2mesh.storage import open_store

AZIMUTH_DEG = 20.0


def fronts(objects: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """PNG pictures of evenly chosen held-out objects, from a little to the right."""
    entries = list_objects(objects, split="heldout")
    for entry in entries[:: max(1, len(entries) // count)][:count]:
        rgba = render_views(place(load_object(entry.read()), AZIMUTH_DEG), orbit((0.0,), size_px=512)).rgba[0]
        buffer = io.BytesIO()
        Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
        yield entry.id.split("/")[-1], buffer.getvalue()


def main() -> None:
    """Print a row an image and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--previews", type=Path, help="keep the preview sheets here")
    options = parser.parse_args()
    images = options.images or ([] if options.objects else [Path("examples/images")])
    files = [f for path in images for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    pictures = [(f.stem, f.read_bytes()) for f in files] + (
        list(fronts(options.objects, options.count)) if options.objects else []
    )
    store, steps = open_store(mkdtemp()), stages_of(presets.get(options.preset), seed=0, formats=("glb", "obj"))
    rows = []
    for name, data in pictures:
        manifest: Model = SourceImage(name=name, image=store.put_blob(data, "application/octet-stream"))
        seconds = []
        for stage, params in steps:
            start = time.perf_counter()
            manifest = stage(manifest, params, store)
            seconds.append(time.perf_counter() - start)
        assert isinstance(manifest, MeshAsset)
        scores = manifest.scores
        rows.append([*seconds, sum(seconds), scores["front_iou"], scores["front_psnr_db"], scores["watertight"]])
        if options.previews:
            options.previews.mkdir(parents=True, exist_ok=True)
            (options.previews / f"{name}.png").write_bytes(store.get_blob(manifest.files["preview.png"]))
        print(f"{name:<24}" + " ".join(f"{v:8.3f}" for v in rows[-1]), flush=True)
    columns = [stage.name[:8] for stage, _ in steps] + ["total", "iou", "psnr_db", "sound"]
    print(" " * 24 + " ".join(f"{c:>8}" for c in columns))
    for label, value in (
        ("median", np.median(rows, axis=0)),
        ("minimum", np.min(rows, axis=0)),
        ("maximum", np.max(rows, axis=0)),
    ):
        print(f"{label:<24}" + " ".join(f"{v:8.3f}" for v in value))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
