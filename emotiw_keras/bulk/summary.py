"""What the parts of a job say together, read once in bounded memory: faces, expressions, films over time, failures by kind."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from emotiw_keras.bulk.job import PREPARE
from emotiw_keras.bulk.parts import Row, read_part
from emotiw_keras.bulk.places import Folder, folder_at
from emotiw_keras.bulk.run import read_manifest, read_parts
from emotiw_keras.data.prepare.faces import UNREADABLE
from emotiw_keras.data.prepare.summary import Group
from emotiw_keras.errors import RunError
from emotiw_keras.serving.readings import NO_FACE
from emotiw_keras.text import number_of

FILMS = 50
"""Films that are shown one by one, the first ones; all are counted."""
BINS = 60
"""Spans of time of a film; they double when it is longer."""
KINDS = 50
"""Kinds of failures that are told apart."""
SIDES = (24, 48, 96, 192, 384)
TENTHS = 10
OTHERS = "others"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"\d[\d,.]*")


def kind_of(error: str) -> str:
    """An error without what is particular: numbers and names.

    Example:
        >>> kind_of("71,000,000 bytes, more than the 67,108,864 allowed")
        '# bytes, more than the # allowed'
    """
    return _NUMBER.sub("#", _QUOTED.sub("'...'", error))


@dataclass
class Film:
    """Expressions over the time of a film.

    Attributes:
        path: of the film.
        unit: "s", or "frames" where frames have no time.
        width: of a span, in that unit.
        spans: faces of each label, a span each.
        frames, faces: counted, those that could be read.
        failed: frames that could not be read; a film that breaks off has one more.
    """

    path: str
    unit: str = "s"
    width: float = 1.0
    spans: list[Counter[str]] = field(default_factory=list)
    frames: int = 0
    faces: int = 0
    failed: int = 0

    def add(self, rows: list[Row]) -> None:
        """Count a frame by its rows."""
        if rows[0]["error"] not in (None, NO_FACE):
            self.failed += 1
            return
        time = rows[0]["seconds"]
        if time is None:
            self.unit, time = "frames", float(rows[0]["frame"])
        while time / self.width >= BINS:
            pairs = [self.spans[i : i + 2] for i in range(0, len(self.spans), 2)]
            self.spans = [sum(pair, Counter()) for pair in pairs]
            self.width *= 2
        place = int(time / self.width)
        self.spans += [Counter() for _ in range(place + 1 - len(self.spans))]
        self.frames += 1
        for row in rows:
            if row["label"] is not None:
                self.faces += 1
                self.spans[place][row["label"]] += 1

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = {"path": self.path, "frames": self.frames, "faces": self.faces, "failed": self.failed}
        return {**found, "unit": self.unit, "width": self.width, "labels": [dict(span) for span in self.spans]}


@dataclass
class Summary:
    """All parts of a job together.

    Attributes:
        command: "predict" or "prepare".
        counts: of the manifest.
        labels: faces of each expression, those of films anew in each frame; of `prepare` those that were cut out, by class.
        certainty: faces by the largest probability, in tenths.
        sides: faces by the shorter side of their box: below each of `SIDES`, and above.
        per_image: images and frames by their number of faces; 5 means 5 or more.
        failures: by kind.
        doubts: by kind.
        films: the first ones.
        film_count: all of them.
        photos, photo_faces: images that are no frames of films and could be read, and the faces in them.
        frames, frame_faces: frames that could be read, and the faces in them: a person counts anew in each frame.
        groups: of `prepare`, by split and class.
    """

    command: str
    counts: dict[str, int]
    labels: Counter[str] = field(default_factory=Counter)
    certainty: list[int] = field(default_factory=lambda: [0] * TENTHS)
    sides: list[int] = field(default_factory=lambda: [0] * (len(SIDES) + 1))
    per_image: list[int] = field(default_factory=lambda: [0] * 6)
    failures: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    films: list[Film] = field(default_factory=list)
    film_count: int = 0
    photos: int = 0
    photo_faces: int = 0
    frames: int = 0
    frame_faces: int = 0
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        found: dict[str, Any] = {
            "command": self.command,
            "counts": self.counts,
            "labels": dict(self.labels),
            "failures": dict(self.failures),
        }
        if self.command == PREPARE:
            return {**found, "groups": [group.as_dict() for _, group in sorted(self.groups.items())]}
        sides = dict(zip([*(f"<{side}" for side in SIDES), f">={SIDES[-1]}"], self.sides, strict=True))
        found |= {"certainty": self.certainty, "sides": sides, "faces_per_image": self.per_image, "doubts": dict(self.doubts)}
        found["photos"] = {"images": self.photos, "faces": self.photo_faces}
        found["frames"] = {"images": self.frames, "faces": self.frame_faces}
        return {**found, "film_count": self.film_count, "films": [film.as_dict() for film in self.films]}

    def predicted(self, rows: list[Row]) -> None:
        """Count an image or a frame of `predict` by its rows."""
        faces = [row for row in rows if row["label"] is not None]
        self.per_image[min(len(faces), 5)] += 1
        for row in faces:
            self.labels[row["label"]] += 1
            self.certainty[min(TENTHS - 1, int(TENTHS * max(row["probabilities"].values())))] += 1
            self.sides[sum(min(row["box"][2:]) >= side for side in SIDES)] += 1
            if row["doubt"] is not None:
                _count(self.doubts, kind_of(row["doubt"]))
        error = rows[0]["error"]
        if error is not None and error != NO_FACE:
            _count(self.failures, kind_of(error))
        elif rows[0]["frame"] is None:
            self.photos += 1
            self.photo_faces += len(faces)
        else:
            self.frames += 1
            self.frame_faces += len(faces)
        if rows[0]["frame"] is not None:
            self._film(rows)

    def _film(self, rows: list[Row]) -> None:
        path = rows[0]["path"]
        if not self.films or self._last != path:
            self.film_count += 1
            if len(self.films) < FILMS:
                self.films.append(Film(path))
        self._last = path
        if self.films[-1].path == path:
            self.films[-1].add(rows)

    _last: str = field(default="", repr=False)

    def prepared(self, rows: list[Row]) -> None:
        """Count an input of `prepare` by its rows."""
        key = (rows[0]["split"], rows[0]["label"])
        if len(self.groups) < KINDS or key in self.groups:
            group = self.groups.setdefault(key, Group(*key))
        else:
            group = self.groups.setdefault(("", OTHERS), Group("", OTHERS))
        group.count(rows)
        self.labels[group.label] += sum(bool(row["output"]) for row in rows)
        for row in rows:
            if row["status"].startswith(UNREADABLE):
                _count(self.failures, kind_of(row["status"].removeprefix(UNREADABLE)))


def _count(counter: Counter[str], kind: str) -> None:
    counter[kind if kind in counter or len(counter) < KINDS else OTHERS] += 1


def summarise(out: str, check: bool = False) -> Summary:
    """Read all parts of a finished job, and see that they are what was written.

    Args:
        out: folder or address of the parts.
        check: read the tars of `prepare` as well, which the summary does not need.

    Raises:
        RunError: no finished job, or a part is missing or damaged.
    """
    folder = folder_at(out)
    manifest = read_manifest(folder)
    if not manifest.get("finished"):
        raise RunError(f"{out} is not finished; run the command that began it again")
    try:
        summary = Summary(manifest["command"], dict(manifest["counts"]))
        kind = manifest["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{out}: its manifest lacks {error}; run the job anew in a new folder") from error
    for record in read_parts(folder, manifest):
        rows, *others = record["files"]
        try:
            _read(summary, read_part(folder, rows["name"], rows["sha256"], kind))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RunError(f"{out}/{rows['name']}: a row is none of `emotiw {summary.command}` ({error!r})") from error
        for other in others if check else ():
            _check(folder, other)
    return summary


def _read(summary: Summary, rows: Iterator[Row]) -> None:
    prepared = summary.command == PREPARE
    for _, same in groupby(rows, key=lambda row: row["path"] if prepared else (row["path"], row["frame"])):
        (summary.prepared if prepared else summary.predicted)(list(same))


def _check(folder: Folder, file: dict[str, Any]) -> None:
    place = f"{folder.name}/{file['name']}"
    try:
        with folder.open(file["name"]) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise RunError(f"{place} cannot be read: {error.strerror or 'no such file'}; run the same command again") from error
    if found != file["sha256"]:
        raise RunError(f"{place} is damaged: its SHA-256 is not what was written; remove it and run the same command again")


def where_faces_are(summary: Summary) -> list[str]:
    """Photos and frames of films apart, with the faces in each; nothing where there are no frames."""
    if not summary.frames:
        return []
    return [
        f"photos: {number_of(summary.photos, 'images')}, {number_of(summary.photo_faces, 'faces')}",
        f"films: {number_of(summary.frames, 'frames')}, {number_of(summary.frame_faces, 'faces')}, counted anew in each frame",
    ]


def faces_counted(summary: Summary) -> str:
    """What the numbers of faces are of."""
    return "faces" + (", those of films counted anew in each frame" if summary.frame_faces else "")


def lines(summary: Summary) -> list[str]:
    """For people: counts, expressions, histograms, films and failures."""
    found = [", ".join(number_of(count, name.replace("_", " ")) for name, count in summary.counts.items())]
    if summary.command == PREPARE:
        for _, group in sorted(summary.groups.items()):
            place = " ".join(filter(None, (group.split, group.label))) or "no class"
            counts = f"{number_of(group.pictures, 'inputs')}, {number_of(group.faces, 'faces')}, {group.without_face:,} without"
            found.append(f"  {place}: {counts}, {group.unreadable:,} unreadable")
        return found + _counted("unreadable", summary.failures)
    found += where_faces_are(summary)
    counted = faces_counted(summary)
    found += _counted(f"expressions ({counted})", summary.labels)
    if summary.labels:
        tenths = [f"{10 * i}-{10 * i + 10} %" for i in range(TENTHS)]
        found += _histogram(f"largest probability ({counted})", tenths, summary.certainty)
        found += _histogram(f"shorter side in pixels ({counted})", side_names(), summary.sides)
    found += _histogram("faces an image", [*"01234", "5 and more"], summary.per_image)
    for film in summary.films:
        counts = f"{number_of(film.frames, 'frames')}, {number_of(film.faces, 'faces')}"
        found.append(f"{film.path}: {counts}; the most frequent every {film.width:g} {film.unit}")
        found.append("  " + " ".join(span.most_common(1)[0][0] if span else "-" for span in film.spans))
    if summary.film_count > len(summary.films):
        found.append(f"and {summary.film_count - len(summary.films):,} more films")
    return found + _counted("doubtful", summary.doubts) + _counted("unreadable", summary.failures)


def side_names() -> list[str]:
    """What the numbers of `Summary.sides` are of."""
    return [f"below {SIDES[0]}", *(f"{a} to {b}" for a, b in zip(SIDES, SIDES[1:], strict=False)), f"from {SIDES[-1]}"]


def _counted(name: str, counter: Counter[str]) -> list[str]:
    total = sum(counter.values())
    return (
        [f"{name}:", *(f"  {count:,} ({count / total:.1%}) {kind}" for kind, count in counter.most_common())] if total else []
    )


def _histogram(name: str, names: list[str], numbers: list[int]) -> list[str]:
    most, wide = max(numbers) or 1, max(map(len, names))
    bars = [
        f"  {each:>{wide}} {'#' * round(30 * count / most)} {count:,}"
        for each, count in zip(names, numbers, strict=True)
        if count
    ]
    return [f"{name}:", *bars]
