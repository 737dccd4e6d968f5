"""`emotiw summary`: numbers that the rows have, from either format, and a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from emotiw_keras.bulk.job import Job
from emotiw_keras.bulk.run import run
from emotiw_keras.bulk.summary import BINS, Film, kind_of, lines, summarise
from emotiw_keras.errors import RunError
from emotiw_keras.files import sha256_file
from emotiw_keras.reports.bulk_page import summary_page
from emotiw_keras.sealed import sealed_json
from tests.bulk.conftest import in_process, rows_of
from tests.serving.marked import frames_of, write_video

Jobs = Callable[..., Job]


def test_the_numbers_are_those_of_the_rows(photos: Path, job_for: Jobs) -> None:
    write_video("film.mp4", frames_of(30))
    inputs = ["photos", "film.mp4", "gone.png"]
    run(job_for("out", inputs), inputs, in_process, lambda line: None)
    found, rows = summarise("out"), rows_of("out")
    faces = [row for row in rows if row["label"]]
    assert found.labels == Counter(row["label"] for row in faces) and sum(found.labels.values()) == 50
    assert found.certainty == [sum(int(10 * max(row["probabilities"].values())) == i for row in faces) for i in range(10)]
    assert found.sides == [0, 0, 20, 0, 30, 0] and found.per_image == [2, 50, 0, 0, 0, 0]
    assert found.failures == {kind_of(row["error"]): 1 for row in rows if row["error"]} and len(found.failures) == 2
    (film,) = found.films
    assert found.as_dict()["photos"] == {"images": 20, "faces": 20} and found.as_dict()["frames"] == {"images": 30, "faces": 30}
    assert found.photos + found.frames + found.counts["failed"] == found.counts["images"]
    assert (film.frames, film.unit, film.width, len(film.spans)) == (30, "s", 1.0, 2)
    first = Counter(row["label"] for row in faces if row["seconds"] is not None and row["seconds"] < 1)
    assert film.spans[0] == first and film.spans[0] + film.spans[1] == Counter(
        row["label"] for row in faces if row["frame"] is not None
    )
    text = "\n".join(lines(found))
    assert "film.mp4: 30 frames, 30 faces" in text and "no such file or folder" in text
    told = ["photos: 20 images, 20 faces", "films: 30 frames, 30 faces, counted anew in each frame"]
    assert text.splitlines()[1:3] == told
    counted = "faces, those of films counted anew in each frame"
    assert [line for line in text.splitlines() if line.endswith(f"({counted}):")] == [
        f"{name} ({counted}):" for name in ("expressions", "largest probability", "shorter side in pixels")
    ]
    page = summary_page(found, "<out>")
    for end in (".", ", by how sure the network is.", ", by the shorter side of their box."):
        assert f">{counted.capitalize()}{end}<" in page
    assert all(f">{line}</p>" in page for line in told)
    assert "&lt;out&gt;" in page and page.count("<svg") == 1 and page.count("<rect") == sum(map(len, film.spans))
    assert "<script" not in page and "src=" not in page


def test_one_is_no_plural_and_photos_alone_need_no_telling_apart(photos: Path, job_for: Jobs) -> None:
    name = str(next(photos.glob("sad/*.png")))
    run(job_for("out", [name]), [name], in_process, lambda line: None)
    first, second, *_ = lines(summarise("out"))
    assert first == "1 input, 1 image, 1 row, 1 face, 0 failed" and second == "expressions (faces):"


def test_both_formats_say_the_same(photos: Path, job_for: Jobs) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    for kind in ("jsonl", "parquet"):
        run(job_for(kind, ["photos"], kind), ["photos"], in_process, lambda line: None)
    assert summarise("jsonl").as_dict() == summarise("parquet").as_dict()


def test_a_long_film_keeps_its_number_of_spans() -> None:
    film = Film("a.mp4")
    for second in range(1000):
        film.add([{"seconds": float(second), "frame": second, "label": "sad" if second < 500 else "happy", "error": None}])
    assert film.width == 32 and len(film.spans) <= BINS and sum(span["sad"] for span in film.spans) == 500
    assert film.spans[0] == {"sad": 32} and film.spans[-1] == {"happy": 1000 - 31 * 32}


def test_a_film_that_breaks_off_has_a_failure_and_not_a_frame_more(photos: Path, job_for: Jobs) -> None:
    write_video("film.mkv", frames_of(60))
    data = Path("film.mkv").read_bytes()
    Path("film.mkv").write_bytes(data[: 2 * len(data) // 3])
    run(job_for("out", ["film.mkv"]), ["film.mkv"], in_process, lambda line: None)
    found, last = summarise("out"), rows_of("out")[-1]
    (film,) = found.films
    assert "cut or damaged" in last["error"] and (last["frame"], last["seconds"]) == (found.frames, None)
    assert (film.frames, film.failed, film.unit, film.width) == (found.frames, 1, "s", 1.0)
    assert sum(sum(span.values()) for span in film.spans) == film.faces == found.frames


@pytest.mark.parametrize("line", ['{"path": "a", "frame": null}', "[1]", "{", '{"path": 1, "frame": 2, "label": 3}'])
def test_rows_of_a_stranger_are_a_line(line: str, photos: Path, job_for: Jobs) -> None:
    run(job_for("out", ["photos"]), ["photos"], in_process, lambda said: None)
    part, table = Path("out/part-00000000.jsonl"), Path("out/_parts.jsonl")
    before = sha256_file(part)
    part.write_text(line + "\n")
    table.write_text(table.read_text().replace(before, sha256_file(part)))
    manifest = json.loads(Path("out/_manifest.json").read_text()) | {"parts_sha256": sha256_file(table)}
    del manifest["checksum"]
    Path("out/_manifest.json").write_text(sealed_json(manifest))
    with pytest.raises(RunError, match=r"part-00000000.jsonl"):
        summarise("out")


def test_what_is_not_finished_or_not_ours_is_a_line(photos: Path, job_for: Jobs) -> None:
    with pytest.raises(RunError, match="holds no _manifest.json"):
        summarise("photos")
    job = job_for("out", ["photos"])
    with pytest.raises(KeyboardInterrupt):
        run(job, ["photos"], lambda job, shards: (_ for _ in ()).throw(KeyboardInterrupt), lambda said: None)
    with pytest.raises(RunError, match="is not finished"):
        summarise("out")
