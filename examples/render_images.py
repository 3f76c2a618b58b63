"""Renders the example pictures from the objects named below: `python examples/render_images.py OBJECTS`.

OBJECTS is a folder of objects with its `index.jsonl`. Where the pictures come from is written in `ATTRIBUTION.md`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from img2mesh.data.objects import list_objects, load_object
from img2mesh.data.render import place, render_views
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.light import Light

SIZE_PX = 512
LIGHT = Light(ambient=0.6, diffuse=0.4, direction=(-0.5, 0.6, 0.8))
IMAGES = Path(__file__).parent / "images"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture: `.png` keeps its alpha, `.jpg` stands on white."""

    object_id: str
    azimuth_deg: float
    file: str


EXAMPLES = (
    Example(object_id="sh3d/BlendSwap-CC-0/teddyBear", azimuth_deg=20.0, file="teddy.png"),
    Example(object_id="sh3d/BlendSwap-CC-0/winchesterArmchair", azimuth_deg=30.0, file="armchair.png"),
    Example(object_id="sh3d/BlendSwap-CC-0/barrel", azimuth_deg=25.0, file="barrel.jpg"),
)


def main() -> None:
    """Write every example into `examples/images`."""
    parser = argparse.ArgumentParser(description="Render the example pictures.")
    parser.add_argument("objects", type=Path, help="folder of objects with index.jsonl")
    entries = {entry.id: entry for entry in list_objects(parser.parse_args().objects)}
    IMAGES.mkdir(exist_ok=True)
    for example in EXAMPLES:
        obj = place(load_object(entries[example.object_id].read()), example.azimuth_deg)
        rgba = render_views(obj, orbit((0.0,), size_px=SIZE_PX), light=LIGHT, supersample=3).rgba[0]
        if example.file.endswith(".png"):
            Image.fromarray(rgba).save(IMAGES / example.file, optimize=True)
        else:
            alpha = rgba[..., 3:] / 255.0
            on_white = np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
            Image.fromarray(on_white).save(IMAGES / example.file, quality=92)


if __name__ == "__main__":
    main()
