"""Household things drawn at random: a guess of what a picture hides has to have seen many tables, and none of them often.

Measures are in metres, by feel; +y is up, +z the front.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh

from img2mesh.data.render import write_whole
from img2mesh.data.solids import Solid, arc, box, cushion, hull, leaning, rod, turned

_Random = np.random.Generator
_Line = npt.NDArray[np.float64]
_SIDES = (-1, 1)
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def invent(out: Path, count: int, *, seed: int = 0) -> Iterator[Path]:
    """Write things as GLB files without colours, which `gather` paints; gives each one's path.

    The thing of a number is always the same for a seed, however many are asked for.
    """
    for number in range(count):
        kind, thing = _KINDS[number % len(_KINDS)]
        scene: Any = trimesh.Scene(thing(np.random.default_rng([seed, number])))
        path = out / f"{kind}-{number:05}.glb"
        write_whole(path, scene.export(file_type="glb"))
        yield path


def _chance(random: _Random, share: float) -> bool:
    return bool(random.random() < share)


def _profile(random: _Random) -> tuple[_Line, _Line]:
    """Radii and heights of something turned, smooth or with edges."""
    knots = random.uniform(0.25, 1.0, size=random.integers(2, 5))
    along = np.linspace(0, 1, 14)
    radii = np.interp(along, np.linspace(0, 1, len(knots)), knots)
    if _chance(random, 0.7):
        radii = np.convolve(np.pad(radii, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return radii * random.uniform(0.15, 0.6), along * random.uniform(0.5, 1.0)


def _legs(random: _Random, width: float, depth: float, height: float, *, thick: float | None = None) -> list[Solid]:
    """Four legs under a rectangle, a foot in the middle, or two walls."""
    thick = thick or random.uniform(0.015, 0.05) * max(width, depth) ** 0.5
    kind = random.random()
    x, z = width / 2 - thick, depth / 2 - thick
    if kind < 0.12:
        foot = random.uniform(0.5, 0.9) * min(width, depth) / 2
        return [turned([foot, foot, thick * 1.5], [0, 0.03, 0.07]), turned([thick * 1.5] * 2, [0.05, height])]
    if kind < 0.22:
        return [box((thick, height, depth * random.uniform(0.7, 1)), (s * x, height / 2, 0)) for s in _SIDES]
    spread = random.choice([0.0, 0.0, 0.06, 0.12]) * height
    corners, thinner = (4 if _chance(random, 0.5) else 12), random.choice([1.0, 1.0, 1.4, 1.8])
    feet = [((sx * (x + spread), 0, sz * (z + spread)), (sx * x, height, sz * z)) for sx, sz in _CORNERS]
    legs = [rod(foot, top, thick / thinner, thinner=thinner, corners=corners) for foot, top in feet]
    if _chance(random, 0.3):
        low = height * random.uniform(0.15, 0.6)
        legs += [rod((s * x, low, -z), (s * x, low, z), thick * 0.6, corners=corners) for s in _SIDES]
        if _chance(random, 0.5):
            legs += [rod((-x, low, s * z), (x, low, s * z), thick * 0.6, corners=corners) for s in _SIDES]
    return legs


def _slab(random: _Random, width: float, thick: float, depth: float, y: float) -> Solid:
    """A board whose under side is at y: a rectangle, rounded or an ellipse."""
    kind = random.random()
    if kind < 0.55:
        return box((width, thick, depth), (0, y + thick / 2, 0))
    slab = turned([0.5, 0.5], [0, thick], square=2.0 if kind < 0.8 else 6.0)
    slab.vertices[:, 0] *= width
    slab.vertices[:, 2] *= depth
    return slab.apply_translation((0, y, 0))


def _table(random: _Random) -> list[Solid]:
    width, height, thick = random.uniform(0.4, 1.8), random.uniform(0.35, 0.95), random.uniform(0.02, 0.07)
    depth = width * random.choice([1.0, random.uniform(0.35, 1.0)])
    under = height - thick
    things = [_slab(random, width, thick, depth, under), *_legs(random, width * 0.92, depth * 0.92, under)]
    if _chance(random, 0.35):
        rim = random.uniform(0.05, 0.15)
        things.append(box((width * 0.85, rim, depth * 0.85), (0, under - rim / 2, 0)))
    if _chance(random, 0.2):
        things.append(box((width * 0.85, thick, depth * 0.85), (0, height * random.uniform(0.15, 0.4), 0)))
    if _chance(random, 0.25):
        side, broad = random.choice(_SIDES), width * random.uniform(0.25, 0.45)
        low = random.uniform(0.0, 0.5) * height
        at = (side * (width * 0.92 - broad) / 2, (under + low) / 2, 0)
        things.append(box((broad, under - low, depth * 0.85), at))
    return things


def _chair(random: _Random) -> list[Solid]:
    """A chair or a stool."""
    width, depth = random.uniform(0.36, 0.6), random.uniform(0.36, 0.6)
    seat, thick = random.uniform(0.35, 0.75), random.uniform(0.02, 0.1)
    slab = _slab(random, width, thick, depth, seat - thick)
    beneath = (width * random.uniform(0.8, 1), depth * random.uniform(0.8, 1), seat - thick)
    things = [slab, *_legs(random, *beneath, thick=random.uniform(0.012, 0.03))]
    if _chance(random, 0.2):
        return things
    things += _back(random, width, seat, thick, -depth / 2 + 0.02)
    if _chance(random, 0.35):
        arm, post, z = seat + random.uniform(0.15, 0.28), random.uniform(0.012, 0.03), depth * 0.4
        things += [box((0.05, 0.03, depth * 0.95), (s * width / 2, arm, 0)) for s in _SIDES]
        things += [rod((s * width / 2, seat - thick, z), (s * width / 2, arm, z), post) for s in _SIDES]
    return things


def _back(random: _Random, width: float, seat: float, thick: float, z: float) -> list[Solid]:
    """The back of a chair: a board or a cushion, or two posts with rails and bars."""
    high, lean = random.uniform(0.25, 0.65), random.uniform(0, 0.25)
    top = z - high * math.tan(lean)
    kind = random.random()
    if kind < 0.35:
        made = box if _chance(random, 0.5) else cushion
        board = leaning(made((width, high, random.uniform(0.02, 0.08)), (0, 0, 0)), -lean)
        return [board.apply_translation((0, seat + high / 2, (z + top) / 2))]
    post, x = random.uniform(0.012, 0.03), width / 2 - 0.02
    things = [rod((s * x, seat - thick, z), (s * x, seat + high, top), post) for s in _SIDES]
    for share in np.linspace(1, 0.25, random.integers(1, 5)):
        at = (0, seat + high * share, z + (top - z) * share)
        things.append(box((2 * x, random.uniform(0.03, 0.1), 0.02), at, about_x=-lean))
    if kind > 0.7:
        bars = np.linspace(-x, x, random.integers(3, 8) + 2)[1:-1]
        things += [rod((at, seat, z), (at, seat + high, top), post * 0.6) for at in bars]
    return things


def _sofa(random: _Random) -> list[Solid]:
    seats, soft = random.integers(1, 4), random.uniform(3, 10)
    each, depth, seat = random.uniform(0.5, 0.75), random.uniform(0.6, 0.95), random.uniform(0.3, 0.45)
    back, arm, thick = random.uniform(0.3, 0.6), random.uniform(0.1, 0.3), random.uniform(0.12, 0.25)
    feet, width = random.choice([0.0, 0.05, 0.12]), each * seats
    places = (np.arange(seats) - (seats - 1) / 2) * each
    things = [box((width, seat - feet - 0.1, depth), (0, (seat + feet - 0.1) / 2, 0))]
    things += [cushion((each, 0.16, depth - thick), (x, seat - 0.05, thick / 2), square=soft) for x in places]
    things += [cushion((each, back, thick), (x, seat + back / 2, -depth / 2 + thick / 2), square=soft) for x in places]
    if _chance(random, 0.85):
        high, side = random.uniform(0.12, 0.3), (width + arm) / 2
        size, y = (arm, seat + high - feet, depth), (seat + high + feet) / 2
        things += [cushion(size, (s * side, y, 0), square=soft) for s in _SIDES]
    if feet:
        places_of_feet = [(sx * width * 0.45, sz * depth * 0.42) for sx, sz in _CORNERS]
        things += [rod((x, 0, z), (x, feet, z), 0.025) for x, z in places_of_feet]
    if seats > 1 and _chance(random, 0.2):
        long = random.uniform(0.5, 0.9)
        at = (random.choice(_SIDES) * places[-1], (seat + feet) / 2, depth / 2 + long / 2 - 0.05)
        things.append(cushion((each, seat - feet, long), at, square=8))
    return things


def _cabinet(random: _Random) -> list[Solid]:
    """A cabinet or shelves: a grid of places, open or with doors and drawers."""
    width, height = random.uniform(0.35, 1.8), random.uniform(0.4, 2.1)
    depth, wall = random.uniform(0.25, 0.65), random.uniform(0.015, 0.05)
    feet = random.choice([0.0, 0.0, 0.06, 0.2])
    columns, rows = random.integers(1, 1 + max(1, round(width / 0.4))), random.integers(1, 2 + max(1, round(height / 0.4)))
    walls = np.linspace(-1, 1, columns + 1) * (width - wall) / 2
    things = [box((width, height, wall), (0, height / 2, -depth / 2 + wall / 2))]
    things += [box((wall, height, depth), (x, height / 2, 0)) for x in walls]
    things += [box((width, wall, depth), (0, y, 0)) for y in np.linspace(wall / 2, height - wall / 2, rows + 1)]
    closed, (broad, high) = random.choice([0.0, 0.5, 1.0, 1.0]), (width / columns, height / rows)
    knob = random.uniform(0.01, 0.025)
    for column, row in np.ndindex(columns, rows):
        if _chance(random, closed):
            x, y = (column + 0.5) * broad - width / 2, (row + 0.5) * high
            at = x + (broad * 0.38 if high > 1.2 * broad else 0)
            things.append(box((broad * 0.95, high * 0.94, wall), (x, y, depth / 2)))
            things.append(cushion((knob * 2, knob * 2, knob * 3), (at, y, depth / 2 + wall), square=2))
    if _chance(random, 0.3):
        things.append(box((width * 1.06, wall * 1.5, depth * 1.06), (0, height, 0)))
    raised = [thing.apply_translation((0, feet, 0)) for thing in things]
    return raised + (_legs(random, width, depth, feet, thick=0.03) if feet else [])


def _appliance(random: _Random) -> list[Solid]:
    """A box with a face: a fridge, an oven, a loudspeaker, a toaster, a clock."""
    width, height = random.uniform(0.2, 0.9), random.uniform(0.15, 1.9)
    depth = random.choice([width, random.uniform(0.3, 1.1) * width])
    size, centre, face = (width, height, depth), (0, height / 2, 0), depth / 2
    things = [cushion(size, centre, square=random.uniform(5, 16)) if _chance(random, 0.4) else box(size, centre)]
    for _ in range(random.integers(1, 4)):
        w, h = width * random.uniform(0.3, 0.9), height * random.uniform(0.1, 0.6)
        x, y = (width - w) * random.uniform(-0.4, 0.4), h / 2 + (height - h) * random.uniform(0.05, 0.95)
        if _chance(random, 0.4):
            things.append(rod((x, y, face - 0.02), (x, y, face + 0.01), min(w, h) / 2, corners=24))
        else:
            things.append(box((w, h, 0.02), (x, y, face)))
    if _chance(random, 0.4):
        x = width * random.uniform(-0.4, 0.4)
        things.append(rod((x, height * 0.3, face + 0.03), (x, height * 0.7, face + 0.03), 0.012))
    if _chance(random, 0.3):
        y, buttons = height * 0.93, np.linspace(-0.35, 0.35, random.integers(2, 6)) * width
        things += [rod((x, y, face), (x, y, face + 0.03), 0.02) for x in buttons]
    return things


def _vessel(random: _Random) -> list[Solid]:
    """What is turned on a wheel or blown: vases, jars, bottles, pots, mugs, jugs."""
    radii, heights = _profile(random)
    things = [turned(radii, heights, square=2.0 if _chance(random, 0.8) else random.uniform(3, 8))]
    top, height = radii[-1], heights[-1]
    if _chance(random, 0.3):
        lid = random.uniform(0.02, 0.12)
        things.append(turned([top, top * random.uniform(0.3, 1), 0.02], [height, height + lid * 0.6, height + lid]))
        things.append(cushion((0.04, 0.04, 0.04), (0, height + lid, 0), square=2))
    middle = float(np.interp(height * 0.6, heights, radii))
    if _chance(random, 0.4):
        size, handles = height * random.uniform(0.15, 0.3), random.choice([1, 1, 2])
        sides = (1, -1)[:handles]
        things += [arc(size, 0.02, (s * middle, height * 0.6, 0), start=-s * math.pi / 2) for s in sides]
    if _chance(random, 0.2):
        things.append(rod((-middle * 0.8, height * 0.45, 0), (-middle - height * 0.35, height * 0.9, 0), 0.06, thinner=0.5))
    if _chance(random, 0.12):
        things.append(arc(top, 0.01, (0, height, 0), start=0.0))
    return things


def _lamp(random: _Random) -> list[Solid]:
    height, foot = random.uniform(0.4, 1.7), random.uniform(0.1, 0.22)
    shade, low = random.uniform(0.12, 0.35), height * random.uniform(0.6, 0.8)
    things = [turned([foot, foot * random.uniform(0.3, 1), 0.02], [0, 0.03, random.uniform(0.04, 0.1)])]
    square = random.choice([2.0, 2.0, 6.0])
    if _chance(random, 0.5):
        radii, heights = _profile(random)
        things.append(turned(radii * 0.25 / radii.max(), heights / heights[-1] * low))
    things.append(rod((0, 0, 0), (0, height * 0.95, 0), random.uniform(0.01, 0.025)))
    things.append(turned([shade, shade * random.uniform(0.4, 1.0)], [low, height], square=square))
    return things


def _bed(random: _Random) -> list[Solid]:
    width, long, high = random.uniform(0.8, 1.9), random.uniform(1.8, 2.2), random.uniform(0.2, 0.45)
    head, foot = random.uniform(0.3, 0.9), random.choice([0.0, random.uniform(0.1, 0.4)])
    things = [box((width, 0.15, long), (0, high - 0.1, 0))]
    things.append(cushion((width * 0.98, 0.25, long * 0.97), (0, high + 0.1, 0), square=8))
    things.append(box((width * 1.03, high + head, 0.06), (0, (high + head) / 2, -long / 2)))
    if foot:
        things.append(box((width * 1.03, high + foot, 0.06), (0, (high + foot) / 2, long / 2)))
    pillows = 1 if width < 1.3 else 2
    places = (np.arange(pillows) - (pillows - 1) / 2) * width * 0.45
    things += [cushion((width * 0.8 / pillows, 0.15, 0.4), (x, high + 0.27, -long * 0.38), square=3) for x in places]
    return things + _legs(random, width, long, high - 0.1, thick=random.uniform(0.03, 0.06))


def _screen(random: _Random) -> list[Solid]:
    """A panel on a stand or an easel: a monitor, a mirror, a picture, a sign."""
    width, height, thick = random.uniform(0.4, 1.4), random.uniform(0.3, 1.2), random.uniform(0.02, 0.12)
    up = random.uniform(0.05, 0.9)
    panel = box((width, height, thick), (0, up + height / 2, 0))
    shown = box((width * 0.9, height * 0.88, 0.01), (0, up + height / 2, thick / 2))
    if _chance(random, 0.5):
        pole = rod((0, 0, 0), (0, up + 0.1, -thick / 2), 0.03)
        return [panel, shown, pole, _slab(random, random.uniform(0.2, 0.6) * width, 0.02, random.uniform(0.15, 0.4), 0)]
    x = width * 0.4
    return [panel, shown, *(rod((sx * x, 0, 0.2 * sz), (sx * x, up, 0), 0.02) for sx, sz in _CORNERS)]


def _rack(random: _Random) -> list[Solid]:
    """Rods and boards: a ladder, a shelf of wire, a clothes rail, a fence, a trolley."""
    width, height, depth = random.uniform(0.35, 1.4), random.uniform(0.5, 1.9), random.uniform(0.25, 0.6)
    post, levels = random.uniform(0.012, 0.035), random.integers(2, 6)
    corners = 4 if _chance(random, 0.5) else 12
    x, z = width / 2, depth / 2
    inwards = z * random.choice([0.0, 0.0, 0.8])
    posts = [((sx * x, 0, sz * z), (sx * x, height, sz * (z - inwards))) for sx, sz in _CORNERS]
    things = [rod(foot, top, post, corners=corners) for foot, top in posts]
    boards = _chance(random, 0.6)
    for share in np.linspace(random.uniform(0.05, 0.3), 1, levels):
        y, inside = height * share, z - inwards * share
        if boards:
            things.append(box((width, 0.025, 2 * inside + 0.02), (0, y, 0)))
        else:
            things += [rod((-x, y, s * inside), (x, y, s * inside), post * 0.8, corners=corners) for s in _SIDES]
            things += [rod((s * x, y, -inside), (s * x, y, inside), post * 0.8, corners=corners) for s in _SIDES]
    return things


def _stairs(random: _Random) -> list[Solid]:
    """Solid steps or treads, with rails or stringers."""
    steps, width = random.integers(2, 10), random.uniform(0.4, 1.2)
    rise, run = random.uniform(0.15, 0.25), random.uniform(0.2, 0.35)
    solid = _chance(random, 0.5)
    tops = [(rise * (step + 1), -run * step) for step in range(steps)]
    things = []
    for top, z in tops:
        high = top if solid else 0.04
        things.append(box((width, high, run), (0, top - high / 2, z)))
    if solid and not _chance(random, 0.4):
        return things
    rail, x, end = (random.uniform(0.5, 0.9) if solid else 0.0), width / 2, -run * (steps - 0.5)
    things += [rod((s * x, rail, run / 2), (s * x, rail + rise * steps, end), 0.03, corners=4) for s in _SIDES]
    if rail:
        things += [rod((s * x, top, z), (s * x, rail + top - rise / 2, z), 0.02) for s in _SIDES for top, z in tops]
    return things


def _car(random: _Random) -> list[Solid]:
    long, width = random.uniform(3.0, 5.5), random.uniform(1.5, 2.0)
    wheel, bonnet = random.uniform(0.28, 0.42), random.uniform(0.75, 1.1)
    roof, nose = bonnet + random.uniform(0.3, 0.9), random.uniform(0.5, 1.0)
    x, front, rear, low = width / 2, long / 2, -long / 2, wheel * random.uniform(0.7, 1.2)
    side = [(1.0, low, front), (1.0, low, rear)]
    side += [(0.95, bonnet * nose, front), (0.95, bonnet, front * 0.5), (0.95, bonnet, rear)]
    begins, ends = front * random.uniform(0.1, 0.75), rear * random.uniform(0.4, 1.0)
    cabin = [(s * x * 0.92, bonnet, z) for s in _SIDES for z in (begins, ends)]
    for s in _SIDES:
        slants = (begins - random.uniform(0.1, 0.8), ends + random.uniform(0.0, 0.6))
        cabin += [(s * x * random.uniform(0.7, 0.85), roof, z) for z in slants]
    axles = (front * random.uniform(0.55, 0.7), rear * random.uniform(0.55, 0.7))
    things = [hull([(s * x * share, y, z) for s in _SIDES for share, y, z in side]), hull(cabin)]
    things += [rod((s * x * 0.75, wheel, z), (s * x * 1.06, wheel, z), wheel, corners=20) for s in _SIDES for z in axles]
    things += [cushion((0.3, 0.15, 0.15), (s * x * 0.65, bonnet * nose * 0.85, front), square=3) for s in _SIDES]
    return things


def _animal(random: _Random) -> list[Solid]:
    """Body, head, tail and four legs, or two: toys as much as animals."""
    long, high, wide = random.uniform(0.5, 1.2), random.uniform(0.25, 0.6), random.uniform(0.2, 0.5)
    up, leg = random.uniform(0.15, 0.8), random.uniform(0.03, 0.09)
    middle = up + high / 2
    body = cushion((wide, high, long), (0, middle, 0), square=random.uniform(2, 3))
    y, z, head = middle + random.uniform(0.1, 0.7), long / 2 + random.uniform(0, 0.3), random.uniform(0.18, 0.4)
    things = [body, rod((0, middle, long * 0.35), (0, y, z), leg * 1.8, thinner=0.8)]
    things.append(cushion((head * 0.8, head * 0.8, head * random.uniform(0.8, 1.6)), (0, y, z + head * 0.2), square=2))
    ear = random.uniform(0.05, 0.2)
    things += [cushion((0.06, ear * 2, 0.06), (s * head * 0.25, y + head * 0.35, z), square=2) for s in _SIDES]
    rows = (-0.36 * long, 0.36 * long) if _chance(random, 0.75) else (0.0,)
    x = wide * 0.33
    things += [rod((s * x, 0, at), (s * x, middle, at), leg * 0.8, thinner=1.4) for s in _SIDES for at in rows]
    if _chance(random, 0.7):
        tip = (0, middle + random.uniform(-0.3, 0.5), -long / 2 - random.uniform(0.1, 0.4))
        things.append(rod((0, middle, -long * 0.45), tip, leg * 0.8, thinner=0.5))
    return things


def _assembly(random: _Random) -> list[Solid]:
    """Any solids, the first in the middle; of the others more than half come in pairs."""
    things: list[Solid] = []
    for _ in range(random.integers(2, 7)):
        size = random.uniform(0.1, 0.8, size=3)
        x, y, z = random.uniform(-0.4, 0.4, size=3) * (1 if things else 0)
        shape = random.integers(3)
        for side in (1, -1) if things and _chance(random, 0.6) else (1,):
            at = (side * x, y, z)
            if shape == 0:
                things.append(box(size, at))
            elif shape == 1:
                things.append(cushion(size, at, square=random.uniform(2, 6)))
            else:
                things.append(turned([size[0] / 2, size[2] / 2], [-size[1] / 2, size[1] / 2], at))
    return things


# As often as they stand here; what people have most of is spread over the list.
_KINDS: tuple[tuple[str, Callable[[_Random], list[Solid]]], ...] = (
    ("table", _table),
    ("chair", _chair),
    ("vessel", _vessel),
    ("cabinet", _cabinet),
    ("appliance", _appliance),
    ("chair", _chair),
    ("sofa", _sofa),
    ("lamp", _lamp),
    ("table", _table),
    ("rack", _rack),
    ("vessel", _vessel),
    ("bed", _bed),
    ("screen", _screen),
    ("cabinet", _cabinet),
    ("assembly", _assembly),
    ("stairs", _stairs),
    ("car", _car),
    ("animal", _animal),
    ("appliance", _appliance),
    ("chair", _chair),
)
