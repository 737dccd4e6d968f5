"""How one face of `generated.py` is drawn: a person, an expression, a way to look at them.

Lengths are half head widths, x to the right and y down from the middle of the head; tones are grey 0..255.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Range = tuple[float, float]
Points = np.ndarray

# What each column is, in half head widths (up, open and outwards positive); the last four are strengths 0..1.
FEATURES = ("brow_in", "brow_mid", "brow_out", "lid_up", "lid_low", "mouth_width", "corner", "open_up", "open_low",
            "teeth", "nose", "frown", "cheek")  # fmt: skip
EXPRESSIONS: dict[str, tuple[float, ...]] = {
    "angry": (-0.18, -0.02, 0.13, 0.09, 0.08, 0.31, -0.05, 0.08, 0.10, 1.0, 0.2, 1.0, 0.0),
    "disgust": (-0.07, -0.05, -0.03, 0.05, 0.04, 0.30, -0.13, 0.15, -0.03, 0.3, 1.0, 0.2, 0.7),
    "fear": (0.24, 0.15, 0.02, 0.20, 0.14, 0.45, -0.08, 0.06, 0.11, 0.6, 0.0, 0.3, 0.0),
    "happy": (0.03, 0.10, 0.02, 0.11, -0.01, 0.48, 0.17, 0.00, 0.22, 1.0, 0.0, 0.0, 0.9),
    "sad": (0.18, 0.03, -0.14, 0.07, 0.07, 0.29, -0.16, 0.00, 0.00, 0.0, 0.0, 0.2, 0.0),
    "surprise": (0.20, 0.29, 0.19, 0.21, 0.13, 0.19, 0.00, 0.15, 0.25, 0.0, 0.0, 0.0, 0.0),
    "neutral": (0.00, 0.06, 0.00, 0.13, 0.07, 0.33, 0.01, 0.00, 0.00, 0.0, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Difficulty:
    """How far the images stray from a clean frontal face; ranges are (lowest, highest) of a uniform draw.

    Angles are degrees, lengths half head widths, tones 0..255, shares 0..1; blur is in pixels of a 48-pixel image.
    """

    intensity: Range = (0.8, 1.1)  # 0 would be neutral, 1 the full expression
    wobble: float = 0.015  # standard deviation added to every movement of brow, lid and mouth
    roll: float = 8.0
    yaw: float = 10.0
    scale: Range = (0.92, 1.1)
    shift: float = 0.08
    light: float = 0.25  # strength of the light gradient across the image
    contrast: Range = (0.8, 1.1)
    blur: Range = (0.0, 0.6)
    noise: Range = (1.0, 6.0)
    occlusion: float = 0.0  # share of faces with something in front of them
    glasses: float = 0.15
    sketch: float = 0.0  # share drawn with a pen instead of painted


@dataclass(frozen=True)
class Person:
    """What stays the same in every image of one person."""

    width: float
    height: float
    skin: float
    hair: float
    hair_style: int  # 0 bald, 1 short, 2 long
    hairline: float
    eye_x: float
    eye_y: float
    eye_width: float
    iris: float
    brow_weight: float
    brow_gap: float
    nose: float
    mouth_y: float
    mouth_scale: float
    lip: float
    beard: bool
    glasses: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, level: Difficulty) -> Person:
        skin = rng.uniform(105, 225)
        return cls(
            width=rng.uniform(0.88, 1.08), height=rng.uniform(1.18, 1.38), skin=skin,
            hair=rng.uniform(15, 0.75 * skin), hair_style=int(rng.choice(3, p=(0.15, 0.5, 0.35))),
            hairline=rng.uniform(0.62, 0.82), eye_x=rng.uniform(0.36, 0.44), eye_y=rng.uniform(-0.24, -0.12),
            eye_width=rng.uniform(0.20, 0.25), iris=rng.uniform(20, 90), brow_weight=rng.uniform(0.045, 0.085),
            brow_gap=rng.uniform(0.24, 0.30), nose=rng.uniform(0.30, 0.42), mouth_y=rng.uniform(0.62, 0.72),
            mouth_scale=rng.uniform(0.9, 1.12), lip=rng.uniform(0.45, 0.7), beard=bool(rng.random() < 0.12),
            glasses=bool(rng.random() < level.glasses),
        )  # fmt: skip


class Pen:
    """Draws shapes given in face coordinates (half head widths, x right, y down) on a square grey canvas."""

    def __init__(self, side: int, paper: float, place: Callable[[Points], Points], unit: float) -> None:
        self.canvas = np.full((side, side), paper, np.uint8)
        self._place = place
        self._unit = unit

    def turn(self, place: Callable[[Points], Points]) -> None:
        """Place what follows by another map (the features move over the head as it turns)."""
        self._place = place

    def _fixed(self, points: Points) -> Points:
        return (self._place(points) * 16 + 0.5).astype(np.int32)

    def fill(self, points: Points, tone: float) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], float(tone), cv2.LINE_AA, 4)

    def line(self, points: Points, width: float, tone: float, *, closed: bool = False) -> None:
        thickness = max(1, round(width * self._unit))
        cv2.polylines(self.canvas, [self._fixed(points)], closed, float(tone), thickness, cv2.LINE_AA, 4)

    def fill_within(self, outline: Points, points: Points, tone: float) -> None:
        """Fill the part of `points` that lies inside `outline` (the iris behind the lids, teeth behind the lips)."""
        masks = np.zeros((2, *self.canvas.shape), np.uint8)
        for mask, shape in zip(masks, (outline, points), strict=True):
            cv2.fillPoly(mask, [self._fixed(shape)], 1.0, cv2.LINE_8, 4)
        np.copyto(self.canvas, np.uint8(tone), where=(masks[0] & masks[1]).view(bool))


_T = np.linspace(-1.0, 1.0, 13)
_BULGE = np.sqrt(1 - _T**2)
_FIVE = np.arange(-2.0, 3.0)


def _points(x: np.ndarray, y: np.ndarray) -> Points:
    points = np.empty((len(x), 2))
    points[:, 0] = x
    points[:, 1] = y
    return points


def _arc(start: float, end: float, n: int) -> Points:
    angle = np.linspace(start, end, n)
    return _points(np.cos(angle), np.sin(angle))


_CIRCLE = _arc(0.0, 2 * np.pi, 33)[:-1]
_CROWN = _arc(1.1 * np.pi, 1.9 * np.pi, 16)


def _ellipse(x: float, y: float, a: float, b: float, arc: Points = _CIRCLE) -> Points:
    return arc * (a, b) + (x, y)


def _between(upper: Points, lower: Points) -> Points:
    return np.concatenate([upper, lower[::-1]])


def _head(pen: Pen, who: Person, sketch: bool) -> None:
    jaw = _ellipse(0.0, 0.0, who.width, who.height)
    jaw[:, 0] *= np.where(jaw[:, 1] > 0, 1 - 0.22 * (jaw[:, 1] / who.height) ** 2, 1.0)
    ink = 30.0
    if who.hair_style == 2:
        long = _ellipse(0.0, 0.12, who.width * 1.22, who.height * 1.2)
        pen.line(long, 0.05, ink, closed=True) if sketch else pen.fill(long, who.hair)
    ears = [_ellipse(side * who.width, 0.02, 0.13, 0.22) for side in (-1, 1)]
    for shape in (*ears, jaw):
        pen.fill(shape, 245.0 if sketch else who.skin)
        if sketch:
            pen.line(shape, 0.045, ink, closed=True)
    if who.beard and not sketch:
        pen.fill(_ellipse(0.0, 0.62, who.width * 0.8, who.height * 0.46), 0.72 * who.skin)
    if who.hair_style:
        over = _ellipse(0.0, 0.0, who.width * 1.05, who.height * 1.05, _CROWN)
        fringe = _points(_T * who.width * 0.95, -who.hairline + 0.25 * _T**2)
        if sketch:
            pen.line(fringe, 0.045, ink)
            for start, end in zip(over[2:-2], fringe[1:], strict=True):
                pen.line(np.array([start, [start[0] * 0.9, (start[1] + end[1]) / 2]]), 0.03, ink)
        else:
            pen.fill(_between(over, fringe), who.hair)


def _eyes(pen: Pen, who: Person, move: dict[str, float], sketch: bool) -> None:
    dark = 25.0
    brow = dark if sketch else min(who.hair, 0.55 * who.skin)
    for side in (-1.0, 1.0):
        x = side * who.eye_x + _T * who.eye_width
        upper = _points(x, who.eye_y - max(0.015, move["lid_up"]) * _BULGE)
        lower = _points(x, who.eye_y + max(-0.03, move["lid_low"]) * _BULGE)
        white = _between(upper, lower)
        pen.fill(white, 250.0 if sketch else 238.0)
        size = 0.06 if sketch else 0.105
        pen.fill_within(white, _ellipse(side * who.eye_x, who.eye_y, size, size), dark if sketch else who.iris)
        pen.line(upper, 0.05, dark if sketch else 0.35 * who.skin)
        pen.line(lower, 0.03, dark if sketch else 0.6 * who.skin)
        height = 0.5 * (_T**2 + _T) * move["brow_out"] + 0.5 * (_T**2 - _T) * move["brow_in"] + (1 - _T**2) * move["brow_mid"]
        arch = _points(side * (who.eye_x + 0.015 + 0.255 * _T), who.eye_y - who.brow_gap - height)
        pen.line(arch, 0.06 if sketch else 2 * who.brow_weight, brow)
        if move["cheek"] > 0.4:
            bag = _points(x, who.eye_y + 0.15 + 0.06 * _BULGE)
            pen.line(bag, 0.03, dark if sketch else 0.72 * who.skin)
        if who.glasses:
            pen.line(_ellipse(side * who.eye_x, who.eye_y + 0.03, 0.31, 0.26), 0.05, dark, closed=True)
    if who.glasses:
        pen.line(np.array([[-0.1, who.eye_y], [0.1, who.eye_y]]), 0.05, dark)


def _nose(pen: Pen, who: Person, move: dict[str, float], sketch: bool) -> None:
    shade = 40.0 if sketch else 0.68 * who.skin
    eye, base = who.eye_y, who.eye_y + who.nose + 0.12
    tip = _points(0.065 * _FIVE, base + np.array([-0.05, 0.0, 0.03, 0.0, -0.05]))
    pen.line(tip, 0.05, shade)
    for side in (-1, 1):
        if move["frown"] > 0.5:
            pen.line(np.array([[side * 0.06, eye - 0.28], [side * 0.05, eye - 0.1]]), 0.04, shade)
        if move["nose"] > 0.5:
            fold = np.array([[side * 0.17, base - 0.1], [side * 0.3, base + 0.08], [side * 0.36, base + 0.24]])
            pen.line(fold, 0.045, shade)
    if move["nose"] > 0.5:
        for drop in (0.03, 0.12):
            pen.line(_points(0.06 * _FIVE, eye + drop + 0.025 * np.abs(_FIVE)), 0.04, shade)


def _mouth(pen: Pen, who: Person, move: dict[str, float], sketch: bool) -> None:
    lip = 30.0 if sketch else who.lip * who.skin
    x = _T * move["mouth_width"] * who.mouth_scale
    middle = who.mouth_y - move["corner"] * (_T**2 - 0.4)
    bulge = 1 - _T**2
    upper = _points(x, middle - move["open_up"] * bulge)
    lower = _points(x, middle + move["open_low"] * bulge)
    if move["open_up"] + move["open_low"] > 0.06:
        inside = _between(upper, lower)
        pen.fill(inside, 70.0 if sketch else 45.0)
        depth = 0.45 * (move["open_up"] + move["open_low"])
        if move["teeth"] > 0.25:
            teeth = _between(upper - [0.0, 0.1], upper + [0.0, depth])
            pen.fill_within(inside, teeth, 245.0)
        pen.line(upper, 0.07, lip)
        pen.line(lower, 0.07 if sketch else 0.09, lip)
    else:
        pen.line((upper + lower) / 2, 0.06 if sketch else 0.12, lip)
        if not sketch:
            pen.line((upper + lower) / 2, 0.035, 0.5 * lip)


def _cover(pen: Pen, rng: np.random.Generator) -> None:
    """Something in front of the face: a hand-sized blob, or a bar across it."""
    tone = rng.uniform(20, 235)
    x, y = rng.uniform(-0.9, 0.9), rng.uniform(-1.0, 1.1)
    if rng.random() < 0.5:
        pen.fill(_ellipse(x, y, rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)), tone)
    else:
        slope = rng.uniform(-0.7, 0.7)
        pen.line(np.array([[-2.5, y - 2.5 * slope], [2.5, y + 2.5 * slope]]), rng.uniform(0.08, 0.2), tone)


def draw_face(who: Person, label: str, size: int, rng: np.random.Generator, level: Difficulty) -> np.ndarray:
    """One image of a person with an expression.

    Args:
        who: the person.
        label: a name in `EXPRESSIONS`.
        size: height and width of the image in pixels.
        rng: draws everything else that varies.
        level: how much it varies.

    Returns:
        uint8 (size, size), grey 0..255.
    """
    rest = np.array(EXPRESSIONS["neutral"])
    movement = rest + rng.uniform(*level.intensity) * (np.array(EXPRESSIONS[label]) - rest)
    movement[:9] += rng.normal(0.0, level.wobble, 9)
    move = dict(zip(FEATURES, movement.tolist(), strict=True))
    sketch = bool(rng.random() < level.sketch)

    side = 2 * size
    unit = side / 2 / 1.36 * rng.uniform(*level.scale)
    roll, yaw = np.radians(rng.uniform(-level.roll, level.roll)), np.radians(rng.uniform(-level.yaw, level.yaw))
    centre = side / 2 + unit * (rng.uniform(-level.shift, level.shift, 2) + [0.0, 0.05])
    rotate = unit * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    along, towards = np.cos(yaw), np.sin(yaw)

    def place(points: Points) -> Points:
        return points @ rotate + centre

    def place_turned(points: Points) -> Points:
        x = points[:, 0]
        return place(_points(along * x + towards * (0.75 - 0.45 * x * x), points[:, 1]))

    pen = Pen(side, rng.uniform(225, 255) if sketch else rng.uniform(20, 235), place, unit)
    if not sketch:
        for _ in range(3):
            pen.fill(_ellipse(*rng.uniform(-1.6, 1.6, 2), *rng.uniform(0.3, 1.0, 2)), rng.uniform(20, 235))
    _head(pen, who, sketch)
    pen.turn(place_turned)
    for part in (_eyes, _nose, _mouth):
        part(pen, who, move, sketch)
    if rng.random() < level.occlusion:
        _cover(pen, rng)
    if sketch and rng.random() < 0.3:
        pen.canvas = 255 - pen.canvas  # chalk on a blackboard

    image = cv2.resize(pen.canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    blur = rng.uniform(*level.blur) * size / 48
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    angle, across = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + rng.uniform(0, level.light) * (np.cos(angle) * across[None, :] + np.sin(angle) * across[:, None])
    image = 127.5 + rng.uniform(*level.contrast) * (image * light - 127.5)
    image += rng.normal(0.0, rng.uniform(*level.noise), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
