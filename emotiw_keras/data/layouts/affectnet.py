"""AffectNet (Mollahosseini et al. 2017), as its two distributions have it.

The smaller one: `train_set/images/0.jpg` with `train_set/annotations/0_exp.npy`, a number as text; and `val_set/`. The full
one: `training.csv` and `validation.csv`, which name images in numbered folders below `Manually_Annotated_Images/`.
"""

from __future__ import annotations

import ast
import posixpath
import re
from concurrent.futures import ThreadPoolExecutor

from emotiw_keras.data.archive import checked_name
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.boxes import Box, BoxedImages
from emotiw_keras.data.layouts.listing import Listing, and_more, list_images, split_named
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import read_rows, whole_number
from emotiw_keras.errors import DataError
from emotiw_keras.labels import NUMBER_CODES
from emotiw_keras.talk import Notice

_CODES = NUMBER_CODES["AffectNet"]
_NONE = {"8": "none", "9": "uncertain", "10": "no face"}
_ANNOTATION = re.compile(r"(?P<top>.*?)(?P<split>[^/]+)/annotations/(?P<stem>[^/]+)_exp\.npy")
_COLUMNS = ("subdirectory_filepath", "expression")
_TABLES = {"training.csv": "train", "validation.csv": "val"}
# The header of a NumPy file: a magic word, its version, the length of a Python dictionary.
_NPY = re.compile(rb"\x93NUMPY([\x01-\x03])\x00")
_NPY_BYTES = 4096


def number_of(data: bytes) -> str:
    """The number that a NumPy file of one value holds, as text; DataError if it holds anything else.

    The header is read as a literal and the value by its type: nothing in the file is executed.
    """
    match = _NPY.match(data)
    if match is None:
        raise DataError("no NumPy file")
    wide = 2 if match[1] == b"\x01" else 4
    start = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    try:
        header = ast.literal_eval(data[8 + wide : start].decode("latin-1").strip())
        kind, shape = str(header["descr"]), tuple(header["shape"])
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DataError("a NumPy file with a damaged header") from error
    values = data[start:]
    if shape not in ((), (1,)):
        raise DataError(f"an array of shape {shape}, expected one number")
    if text := re.fullmatch(r"([<>=|])([US])(\d{1,2})", kind):
        codec = {"U": "utf-32-be" if text[1] == ">" else "utf-32-le", "S": "ascii"}[text[2]]
        word = values.decode(codec, "replace").rstrip("\0")
    elif whole := re.fullmatch(r"([<>=|])([iu])([1248])", kind):
        number = values[: int(whole[3])]
        number = number[::-1] if whole[1] == ">" else number
        word = str(int.from_bytes(number, "little", signed=whole[2] == "i"))
    else:
        raise DataError(f"an array of type {kind}, expected a number as text")
    return whole_number(word.strip())


def _detect_folders(source: Source) -> bool:
    return bool(source.images) and any(_ANNOTATION.fullmatch(name) for name in source.names)


def _read_folders(source: Source) -> Listing:
    annotations = [match for name in source.names if (match := _ANNOTATION.fullmatch(name))]
    images = {name.rpartition(".")[0]: name for name in source.images}

    def read(match: re.Match[str]) -> str:
        try:
            return number_of(source.archive.read(match[0], _NPY_BYTES))
        except (DataError, ImageError) as error:
            raise DataError(f"{source.where(match[0])}: {error}") from error

    with ThreadPoolExecutor() as pool:
        numbers = list(pool.map(read, annotations))
    members, classes, splits, missing, others = [], [], [], [], []
    for match, number in zip(annotations, numbers, strict=True):
        split = split_named(match["split"])
        if split is None:
            raise DataError(f"{source.where(match[0])}: the folder {match['split']!r} is no split; expected train_set, val_set")
        image = images.get(f"{match['top']}{match['split']}/images/{match['stem']}")
        if image is None:
            missing.append(match[0])
        elif (name := _class(number, source.where(match[0]))) is None:
            others.append(image)
        else:
            members.append(image)
            classes.append(name)
            splits.append(split)
    if not members:
        raise DataError(f"{source.given}: none of {len(annotations):,} annotations has its image in images/")
    listing = list_images("AffectNet", source.archive, members)
    listing.classes, listing.split = classes, splits
    listing.used |= {*others} | {name for name in source.names if "/annotations/" in name and name.endswith(".npy")}
    listing.notes += _notes(others, missing)
    return listing


def _class(number: str, where: str) -> str | None:
    if number not in _CODES and number not in _NONE:
        raise DataError(f"{where}: the expression {number!r}; expected 0 to 10")
    return _CODES.get(number)


def _notes(others: list[str], missing: list[str]) -> list[str]:
    notes: list[str] = []
    if others:
        notes.append(Notice(f"without one of the eight expressions ({', '.join(_NONE.values())}), left out: {len(others):,}"))
    if missing:
        notes.append(Notice(f"annotations without an image, left out: {len(missing):,} ({and_more(missing)})"))
    return notes


def _tables(source: Source) -> list[str]:
    return [name for name in source.tables_with(*_COLUMNS) if source.single or posixpath.basename(name).lower() in _TABLES]


def _detect_tables(source: Source) -> bool:
    return bool(_tables(source)) and (source.single or bool(source.images))


def _read_tables(source: Source) -> Listing:
    """The images that the tables name, each cut to the box of its face where the tables give one."""
    if source.single:
        raise DataError(f"{source.given} is AffectNet's table; give the folder that holds it and the images")
    by_end = {"/".join(name.split("/")[-2:]).lower(): name for name in source.images}
    members: list[str] = []
    boxes: list[Box] = []
    listing = Listing("AffectNet", BoxedImages(source.archive, members, boxes), [], [], [], [])
    others: list[str] = []
    missing: list[str] = []
    for table in _tables(source):
        where = source.where(table)
        rows = read_rows(source.archive, table, where)
        columns = [column.strip().lower() for column in rows[0]]
        for number, row in enumerate(rows[1:], start=1):
            at = f"{where}: row {number}"
            if len(row) != len(columns):
                raise DataError(f"{at} has {len(row)} cells, expected {len(columns)}")
            cells = dict(zip(columns, row, strict=True))
            path = checked_name(cells[_COLUMNS[0]], at)
            image = by_end.get("/".join(path.split("/")[-2:]).lower())
            name = _class(whole_number(cells["expression"].strip()), at)
            if image is None or name is None:
                (missing if name is not None else others).append(path)
                listing.used |= {image} if image is not None else set()
                continue
            members.append(image)
            boxes.append(_box(cells, at))
            listing.classes.append(name)
            listing.split.append(_TABLES[posixpath.basename(table).lower()])
        listing.used.add(table)
    if not members:
        raise DataError(f"{source.given}: none of the images that AffectNet's tables name is there")
    listing.names, listing.subject = list(members), [""] * len(members)
    listing.used |= {*members}
    listing.notes += _notes(others, missing)
    return listing


def _box(cells: dict[str, str], where: str) -> Box:
    """The box of the face, or the whole image where the table has none."""
    try:
        x, y, width, height = (int(float(cells[f"face_{key}"])) for key in ("x", "y", "width", "height"))
    except KeyError:
        return 0, 0, 2**31, 2**31
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: a face's box that is no numbers: {error}") from error
    return x, y, x + width, y + height


FOLDERS = Layout("AffectNet", "AffectNet (train_set/{images,annotations}/)", _detect_folders, _read_folders)
TABLES = Layout("AffectNet's tables", "AffectNet (training.csv, validation.csv)", _detect_tables, _read_tables)
