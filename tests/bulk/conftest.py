"""Drawn photos, jobs that read them, and a runner in this process, so that most tests start no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from emotiw_keras.bulk.entries import Shard
from emotiw_keras.bulk.job import Job, Record, model_facts, named_inputs, versions_of
from emotiw_keras.bulk.places import folder_at
from emotiw_keras.bulk.worker import opened
from emotiw_keras.data.generated import draw_faces


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/` with 20 faces in two folders, and a file that is no image; the test stands beside it."""
    monkeypatch.chdir(tmp_path)
    faces = draw_faces(20, size=48)[0][..., 0]
    for number, face in enumerate(faces):
        path = Path("photos", "happy" if number % 2 else "sad", f"{number:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), face)
    Path("photos/bad.png").write_bytes(b"no image")
    return Path("photos")


def in_process(job: Job, shards: Iterable[Shard]) -> Iterator[Record]:
    """A runner: one shard after the other, here."""
    worker = None
    for shard in shards:
        worker = worker or opened(job)
        yield worker.do(shard, folder_at(job.out), lambda place: None)


@pytest.fixture
def job_for(run_folder: Path) -> Callable[..., Job]:
    """A job of predict on whole images, in shards of seven: job_for("out", ["photos"], kind="parquet", every=2)."""

    def make(out: str | Path, inputs: list[str], kind: str = "jsonl", shard: int = 7, **changes: Any) -> Job:
        from emotiw_keras.serving.predictor import open_source

        settings = {
            "faces": "whole", "detector": None, "min_face": None, "turned": False, "every": 1, "smooth": "1", "crops": 1,
            "batch_size": 4, "precision": "float32", "engine": "opencv", "model": str(run_folder), "head": None,
        }  # fmt: skip
        settings |= model_facts(open_source(run_folder)) | changes
        sizes = {"inputs": shard, "bytes": 1 << 20}
        return Job("predict", str(out), settings, kind, named_inputs(tuple(inputs)), sizes, versions_of("opencv", kind))

    return make


def digest(folder: str | Path) -> dict[str, str]:
    """Every file in a folder -> its hash."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of all parts in JSONL, in order."""
    return [json.loads(line) for path in sorted(Path(folder).glob("part-*.jsonl")) for line in path.read_text().splitlines()]
