"""The face detectors on photos whose eyes are known: what they find, how exact, how fast, and how the crops turn out.

PHOTOS holds `dlib_faces/faces` (the faces of dlib's examples with 68 points each, as `*_with_face_landmarks.xml`) and `noface`
(pictures without a face). Run it alone on the machine, from the root of the repository:

    python -m benchmarks.detectors ../shared/data/photos --json detectors.json
"""

from __future__ import annotations

import json
import statistics
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from emotiw_keras.data.images import decode_image
from emotiw_keras.errors import EmotiwError
from emotiw_keras.faces import DETECTORS, Detector, Face, get_detector
from emotiw_keras.faces.alignment import crop_matrix, eye_targets

SIDE = 256
SCALES = (0.5, 1.0, 2.0)
ANGLES = (-30, -20, -10, 0, 10, 20, 30)
STEEP = (-45, 45)
# Found eyes within this of the true ones, in interocular distances, are of that face.
SAME = 0.5


@dataclass(frozen=True)
class Photo:
    """A picture, uint8 (height, width, 3) RGB, and the true eye centres (faces, 2, 2) as face, eye, (x, y); left eye first."""

    name: str
    image: np.ndarray
    eyes: np.ndarray


@dataclass(frozen=True)
class Row:
    """What one detector does on one version of the photos; errors in interocular distances, crops in pixels of 256."""

    detector: str
    photos: str
    faces: int
    found: int
    false_boxes: int
    eye_error_median: float
    eye_error_p90: float
    roll_error_median: float
    roll_error_p90: float
    crop_error_median: float
    crop_error_p90: float


def read_image(path: Path) -> np.ndarray:
    """A picture as (height, width, 3) RGB."""
    image = decode_image(path.read_bytes())
    return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)


def read_photos(folder: Path) -> list[Photo]:
    """The photos with 68 points a face."""
    photos = []
    for file in sorted(folder.glob("*_with_face_landmarks.xml")):
        for element in ElementTree.parse(file).getroot().iter("image"):
            eyes = []
            for box in element.iter("box"):
                parts = [part.attrib for part in box.iter("part")]
                points = {int(part["name"]): (float(part["x"]), float(part["y"])) for part in parts}
                pair = [np.mean([points[index] for index in eye], axis=0) for eye in (range(36, 42), range(42, 48))]
                eyes.append(sorted(pair, key=lambda point: float(point[0])))
            name = element.attrib["file"]
            photos.append(Photo(name, read_image(folder / name), np.array(eyes)))
    return photos


def moved(photo: Photo, angle: float, scale: float) -> Photo:
    """The photo turned by `angle` degrees (clockwise as seen) and scaled, on a canvas that holds all of it."""
    height, width = photo.image.shape[:2]
    image = photo.image
    if scale < 1:
        # Warping alone would skip pixels; a small pixel i stands at (i + 0.5) * step - 0.5.
        size = (round(width * scale), round(height * scale))
        steps = np.array([width / size[0], height / size[1]])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        eyes, scale = (photo.eyes + 0.5) / steps - 0.5, 1.0
        height, width = image.shape[:2]
    else:
        eyes = photo.eyes
    if angle == 0 and scale == 1:
        return Photo(photo.name, image, eyes)
    radians = np.deg2rad(angle)
    turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    size = np.ceil(np.abs(turn) @ [width, height]).astype(int)
    shift = (size - 1) / 2 - turn @ [(width - 1) / 2, (height - 1) / 2]
    image = cv2.warpAffine(image, np.column_stack([turn, shift]), size.tolist(), flags=cv2.INTER_CUBIC)
    return Photo(photo.name, image, eyes @ turn.T + shift)


def mirrored(photo: Photo) -> Photo:
    """The photo's mirror image."""
    eyes = photo.eyes[:, ::-1].copy()
    eyes[..., 0] = photo.image.shape[1] - 1 - eyes[..., 0]
    return Photo(photo.name, np.ascontiguousarray(photo.image[:, ::-1]), eyes)


def grey(photo: Photo) -> Photo:
    """The photo in grey, (height, width)."""
    return Photo(photo.name, cv2.cvtColor(photo.image, cv2.COLOR_RGB2GRAY), photo.eyes)


def matched(faces: list[Face], true_eyes: np.ndarray) -> list[tuple[Face, np.ndarray]]:
    """Pairs of a found face and its true eyes (2, 2), the nearest ones first, none twice."""
    pairs = []
    for number, face in enumerate(faces):
        for index, true in enumerate(true_eyes):
            error = np.linalg.norm(np.array(face.eyes) - true, axis=1).mean() / np.linalg.norm(true[1] - true[0])
            pairs.append((float(error), number, index))
    used_faces: set[int] = set()
    used_true: set[int] = set()
    kept = []
    for error, number, index in sorted(pairs):
        if error < SAME and number not in used_faces and index not in used_true:
            used_faces.add(number)
            used_true.add(index)
            kept.append((faces[number], true_eyes[index]))
    return kept


def roll(eyes: np.ndarray) -> float:
    """Degrees of the line between two eyes (2, 2)."""
    x, y = eyes[1] - eyes[0]
    return float(np.rad2deg(np.arctan2(y, x)))


def measure(detector: Detector, photos: list[Photo], title: str) -> Row:
    """Find the faces of all photos and compare them with the truth."""
    eye_errors, roll_errors, crop_errors = [], [], []
    boxes = 0
    for photo in photos:
        faces = detector.detect(photo.image)
        boxes += len(faces)
        for face, true in matched(faces, photo.eyes):
            error = np.linalg.norm(np.array(face.eyes) - true, axis=1)
            eye_errors.append(float(error.mean() / np.linalg.norm(true[1] - true[0])))
            roll_errors.append(abs(face.roll - roll(true)))
            matrix = crop_matrix(face.eyes, SIDE, "B")
            landed = true @ matrix[:, :2].T + matrix[:, 2]
            crop_errors += np.linalg.norm(landed - np.asarray(eye_targets(SIDE, "B")), axis=1).tolist()
    total = sum(len(photo.eyes) for photo in photos)
    figures = [quantile(values, at) for values in (eye_errors, roll_errors, crop_errors) for at in (0.5, 0.9)]
    return Row(detector.name, title, total, len(eye_errors), boxes - len(eye_errors), *figures)


def quantile(values: list[float], at: float) -> float:
    """A quantile; not a number where nothing was found."""
    return round(float(np.quantile(values, at)), 4) if values else float("nan")


def seconds(detector: Detector, images: list[np.ndarray], rounds: int) -> list[float]:
    """Seconds per picture, the median of `rounds`, after one look that is not counted."""
    result = []
    for image in images:
        detector.detect(image)
        spent = []
        for _ in range(rounds):
            start = time.perf_counter()
            detector.detect(image)
            spent.append(time.perf_counter() - start)
        result.append(statistics.median(spent))
    return result


def versions(photos: list[Photo]) -> dict[str, Callable[[], list[Photo]]]:
    """Makers of the photos as they are, and turned, scaled, mirrored and in grey."""

    def turned(angles: tuple[int, ...], scales: tuple[float, ...]) -> Callable[[], list[Photo]]:
        return lambda: [moved(photo, angle, scale) for scale in scales for photo in photos for angle in angles]

    result: dict[str, Callable[[], list[Photo]]] = {
        "as they are": lambda: photos,
        "mirrored": lambda: [mirrored(photo) for photo in photos],
        "grey": lambda: [grey(photo) for photo in photos],
    }
    result |= {f"scaled by {scale:g}": turned((0,), (scale,)) for scale in SCALES if scale != 1}
    for name, angles in (("up to 30", ANGLES), ("45", STEEP)):
        result |= {f"turned by {name} degrees, scaled by {scale:g}": turned(angles, (scale,)) for scale in SCALES}
        result[f"turned by {name} degrees, scaled by 0.5 - 2"] = turned(angles, SCALES)
    return result


@click.command(context_settings={"show_default": True})
@click.argument("folder", metavar="PHOTOS", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--detector", "names", multiple=True, type=click.Choice(DETECTORS), help="One of them; may be repeated.")
@click.option("--only", default="", help="Only the versions of the photos whose title has this text.")
@click.option("--rounds", default=5, help="Looks at each picture that are timed.")
@click.option("--threads", default=2, help="Threads of OpenCV.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(folder: Path, names: tuple[str, ...], only: str, rounds: int, threads: int, output: Path | None) -> None:
    """Measure the face detectors on PHOTOS."""
    cv2.setNumThreads(threads)
    photos = read_photos(folder / "dlib_faces" / "faces")
    empty = {path.name: read_image(path) for path in sorted((folder / "noface").iterdir())}
    chosen = {title: make for title, make in versions(photos).items() if only in title}
    video = cv2.resize(photos[0].image, (640, 480), interpolation=cv2.INTER_LINEAR)
    report: dict[str, dict[str, object]] = {}
    for name in names or DETECTORS:
        try:
            detector = get_detector(name)
        except EmotiwError as error:
            click.echo(f"{name}: left out, {error}", err=True)
            continue
        false = {title: count for title, image in empty.items() if (count := len(detector.detect(image)))}
        click.echo(f"\n{name}: {sum(false.values())} faces in {len(empty)} pictures without one {false or ''}")
        rows = []
        for title, make in chosen.items():
            row = measure(detector, make(), title)
            rows.append(asdict(row))
            click.echo(
                f"  {title:<48} {row.found:>5} of {row.faces:<5} {row.false_boxes:>3} false  eyes {row.eye_error_median:.3f} "
                f"{row.eye_error_p90:.3f}  roll {row.roll_error_median:.1f} {row.roll_error_p90:.1f}  crop "
                f"{row.crop_error_median:.1f} {row.crop_error_p90:.1f}"
            )
        spent = seconds(detector, [photo.image for photo in photos], rounds)
        frame = seconds(detector, [video], rounds)[0]
        click.echo(f"  {1000 * statistics.median(spent):.0f} ms a photo, {1000 * frame:.0f} ms a frame of 640x480")
        report[name] = {"false_in_pictures_without_a_face": false, "photos": rows, "seconds": spent, "seconds_640x480": frame}
    if output:
        output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
