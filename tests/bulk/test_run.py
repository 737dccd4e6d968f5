"""Jobs: the same bytes whatever happens in between, and a line where going on would be wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.bulk.entries import Shard
from emotiw_keras.bulk.job import Job, Record
from emotiw_keras.bulk.places import folder_at, write
from emotiw_keras.bulk.run import run
from emotiw_keras.bulk.summary import summarise
from emotiw_keras.bulk.worker import CRASHES, Worker
from emotiw_keras.errors import OutputError, RunError, UsageError
from tests.bulk.conftest import digest, in_process, rows_of
from tests.test_full_disk import full_at

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]
Jobs = Callable[..., Job]


def do(job: Job, *inputs: str, runner: Callable[..., Iterator[Record]] = in_process) -> list[str]:
    said: list[str] = []
    run(job, inputs, runner, said.append)
    return said


def test_each_input_has_its_rows_once_and_they_are_those_of_predict(photos: Path, job_for: Jobs, emotiw: Emotiw) -> None:
    do(job_for("out", ["photos"]), "photos")
    rows = rows_of("out")
    assert [row["path"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    model = job_for("out", []).settings["model"]
    plain = emotiw("predict", "photos", "--faces", "whole", "--model", model, "--json", "--engine", "opencv")
    for mine, line in zip(rows, plain.stdout.splitlines(), strict=True):
        theirs = json.loads(line)
        ours, other = (each.pop("probabilities") for each in (mine, theirs))
        assert mine == theirs
        assert ours is None or np.allclose(list(ours.values()), list(other.values()), atol=1e-6)
    manifest = json.loads(Path("out/_manifest.json").read_text())
    assert manifest["finished"] and manifest["parts"] == 3
    assert manifest["counts"] == {"inputs": 21, "images": 21, "rows": 21, "faces": 20, "failed": 1}
    assert {path.name for path in Path("out").iterdir()} == {
        "_manifest.json", "_parts.jsonl", "part-00000000.jsonl", "part-00000001.jsonl", "part-00000002.jsonl",
    }  # fmt: skip


def test_processes_give_the_bytes_of_one(photos: Path, job_for: Jobs) -> None:
    from emotiw_keras.bulk.runners import runner

    do(job_for("here", ["photos"]), "photos")
    do(job_for("two", ["photos"]), "photos", runner=runner("local", 2, None))
    assert digest("two") == digest("here")


def test_ray_gives_the_bytes_of_one(photos: Path, job_for: Jobs) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from emotiw_keras.bulk.runners import runner

    do(job_for("here", ["photos"]), "photos")
    do(job_for(photos.parent.resolve() / "ray", ["photos"]), "photos", runner=runner("ray", 2, None))
    assert digest("ray") == digest("here")


def stopping(after: int) -> Callable[[Job, Iterable[Shard]], Iterator[Record]]:
    """A runner that is interrupted when it has done some shards."""

    def runner(job: Job, shards: Iterable[Shard]) -> Iterator[Record]:
        for number, record in enumerate(in_process(job, shards)):
            if number == after:
                raise KeyboardInterrupt
            yield record

    return runner


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_done_is_not_done_again(kind: str, photos: Path, job_for: Jobs) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    do(job_for("whole", ["photos"], kind), "photos")
    job = job_for("out", ["photos"], kind)
    with pytest.raises(KeyboardInterrupt):
        do(job, "photos", runner=stopping(1))
    part = Path("out", f"part-00000000.{kind}")
    before = part.stat().st_mtime_ns
    Path("out/.123456.part-00000002.jsonl").write_text("what a killed process was writing")

    def killed_meanwhile(job: Job, shards: Iterable[Shard]) -> Iterator[Record]:
        yield from in_process(job, shards)
        Path("out/.654321.part-00000001.jsonl").write_text("what a worker that is killed now was writing")

    assert do(job, "photos", runner=killed_meanwhile)[-1] == "1 of 3 shards were done already"
    assert part.stat().st_mtime_ns == before and digest("out") == digest("whole")
    assert do(job, "photos")[-1] == "3 of 3 shards were done already: nothing left to do"
    assert digest("out") == digest("whole")


def test_a_damaged_part_is_made_again_and_a_changed_bit_is_found(photos: Path, job_for: Jobs) -> None:
    job = job_for("out", ["photos"])
    do(job, "photos")
    before, part = digest("out"), Path("out/part-00000001.jsonl")
    os.truncate(part, 100)
    with pytest.raises(RunError, match="part-00000001.jsonl is damaged"):
        summarise("out")
    assert "is missing or damaged, and is made again" in do(job, "photos")[0] and digest("out") == before
    data = part.read_bytes()
    part.write_bytes(data.replace(b'"label"', b'"Label"', 1))
    with pytest.raises(RunError, match="damaged|is none of"):
        summarise("out")
    part.unlink()
    do(job, "photos")
    assert digest("out") == before
    table = Path("out/_parts.jsonl")
    table.write_bytes(table.read_bytes().replace(b"photos", b"fotos_"))
    with pytest.raises(RunError, match="_parts.jsonl is damaged"):
        summarise("out")


def test_a_shard_whose_record_is_damaged_is_done_again(photos: Path, job_for: Jobs) -> None:
    do(job_for("whole", ["photos"]), "photos")
    job, record = job_for("out", ["photos"]), Path("out/_done/00000000.json")
    with pytest.raises(KeyboardInterrupt):
        do(job, "photos", runner=stopping(2))
    whole = json.loads(record.read_text())
    (file,) = whole["files"]
    for damaged in (
        [], {"shard": 0}, {**whole, "files": []}, {**whole, "files": [{**file, "name": "../part-0"}]},
        {**whole, "files": [{**file, "name": "part-0/../../x"}]}, {**whole, "listing": None}, {**whole, "notes": []},
        {**whole, "rows": "7"},
    ):  # fmt: skip
        record.write_text(json.dumps(damaged))
        with pytest.raises(KeyboardInterrupt):
            do(job, "photos", runner=stopping(1))
        assert json.loads(record.read_text()) == whole
    record.write_text("{}")
    assert do(job, "photos")[-1] == "1 of 3 shards were done already" and digest("out") == digest("whole")


def test_other_inputs_and_other_jobs_are_refused(photos: Path, job_for: Jobs) -> None:
    job = job_for("out", ["photos"])
    with pytest.raises(KeyboardInterrupt):
        do(job, "photos", runner=stopping(2))
    os.utime("photos/happy/01.png", (1, 1))
    told = "has files of other sizes or times than when it was begun, or an earlier version read their names otherwise"
    with pytest.raises(RunError, match=f"^out: shard 0, photos/bad.png ... photos/happy/11.png, {told}; name a new folder$"):
        do(job, "photos")
    shutil.copytree("photos", "more")
    (photos / "aa.png").write_bytes(b"new")
    with pytest.raises(RunError, match="shard 0, made of photos/bad.png ... photos/happy/11.png, would be photos/aa.png"):
        do(job, "photos")
    with pytest.raises(RunError, match=r"begun by another job \(every 1, now 2\)"):
        do(job_for("out", ["photos"], every=2), "photos")
    with pytest.raises(RunError, match=r"begun by another job \(inputs 'photos', now 'more'\)"):
        do(job_for("out", ["more"]), "more")
    with pytest.raises(RunError, match=r"\(inputs nothing, now 'more'\)"):
        do(job_for("out", ["photos", "more"]), "photos", "more")
    with pytest.raises(RunError, match="holds other things"):
        do(job_for("more", ["photos"]), "photos")
    with pytest.raises(UsageError, match="lies in the input photos"):
        do(job_for("photos/out", ["photos"]), "photos")


@pytest.mark.parametrize("out", ["theirs", "memory://theirs"])
def test_files_of_others_are_kept_whatever_hidden_ones_lie_beside_them(out: str, photos: Path, job_for: Jobs) -> None:
    if out != "theirs":
        pytest.importorskip("fsspec", reason="addresses need fsspec")
    folder = folder_at(out)
    for number in range(30):  # names come in no order: one of these comes first
        write(folder, f".hidden{number}", "")
    assert folder.some_name() is None
    write(folder, "part-00000000.jsonl", "precious")
    with pytest.raises(RunError, match=r"holds other things \(part-00000000.jsonl"):
        do(job_for(out, ["photos"]), "photos")
    assert folder.read("part-00000000.jsonl") == b"precious"


def test_inputs_that_grow_or_shrink_after_the_end_are_refused(photos: Path, job_for: Jobs) -> None:
    Path("list.txt").write_text("\n".join(f"photos/sad/{number:02d}.png" for number in range(0, 14, 2)))
    job = job_for("out", ["list.txt"])
    do(job, "list.txt")
    whole = Path("list.txt").read_text()
    Path("list.txt").write_text(whole + "\nphotos/sad/14.png")
    with pytest.raises(RunError, match="there are more, from photos/sad/14.png on"):
        do(job, "list.txt")
    job = job_for("two", ["list.txt"])
    do(job, "list.txt")
    Path("list.txt").write_text(whole)
    with pytest.raises(RunError, match="there are fewer, 1 shards"):
        do(job, "list.txt")


def test_a_full_disk_is_a_line_and_the_job_goes_on_later(photos: Path, job_for: Jobs) -> None:
    do(job_for("whole", ["photos"]), "photos")
    job = job_for("out", ["photos"])
    with full_at(1500), pytest.raises(OutputError, match="cannot write .*part-00000000.jsonl"):
        do(job, "photos")
    assert not list(Path("out").glob("*part*"))
    do(job, "photos")
    assert digest("out") == digest("whole")


def test_another_version_and_another_model_are_refused_by_the_worker(photos: Path, job_for: Jobs) -> None:
    from dataclasses import replace

    job = job_for("out", ["photos"])
    with pytest.raises(UsageError, match="numpy .*, not 1.0 as where the job was begun"):
        do(replace(job, versions={**job.versions, "numpy": "1.0"}), "photos")
    with pytest.raises(Exception, match="is another model here"):
        do(job_for("other", ["photos"], weights="0" * 64), "photos")


@pytest.mark.parametrize("crash", ["SIGSEGV", "exit"])
def test_an_input_that_ends_its_process_is_a_row(
    crash: str, photos: Path, job_for: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "emotiw_keras.bulk.worker._COMMAND", f"from tests.bulk.crashing import serve; serve({crash!r}, '05.png')"
    )
    workers: list[Worker] = []

    def runner(job: Job, shards: Iterable[Shard]) -> Iterator[Record]:
        workers.append(Worker(job))
        yield from map(workers[0].do, shards)

    do(job_for("out", ["photos"]), "photos", runner=runner)
    workers[0].close()
    failed = {row["path"]: row["error"] for row in rows_of("out") if row["error"]}
    how = "was ended by SIGSEGV" if crash == "SIGSEGV" else "ended with exit code 9"
    assert failed["photos/happy/05.png"] == f"cannot read: the process that read it {how}, {CRASHES} times"
    assert set(failed) == {"photos/happy/05.png", "photos/bad.png"} and len(rows_of("out")) == 21


def test_kills_of_the_command_and_of_its_workers_change_no_byte(photos: Path, job_for: Jobs, tmp_path: Path) -> None:
    from benchmarks.scale_read import disturbed

    for number in range(300):
        shutil.copy("photos/happy/01.png", f"photos/{number:03d}.png")
    model = str(job_for("out", []).settings["model"])
    words = ["predict", "photos", "--faces", "whole", "--model", model, "--engine", "opencv", "--jobs", "2", "--shard", "4"]
    course = disturbed([*words, "--out", "killed"], kills=6, usual=1.0, seed=1)
    assert course.code == 3 and sum(course.kills.values()) >= 3, course
    done = subprocess.run([sys.executable, "-c", "from emotiw_keras.cli.main import main; main()", *words, "--out", "whole"])
    assert done.returncode == 3 and digest("killed") == digest("whole")
    assert not [path for path in Path("killed").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_and_its_workers(number: signal.Signals, code: int, photos: Path, job_for: Jobs) -> None:
    from benchmarks.scale_read import workers_of

    for copy in range(400):
        shutil.copy("photos/happy/01.png", f"photos/{copy:03d}.png")
    model = str(job_for("out", []).settings["model"])
    words = ["predict", "photos", "--faces", "whole", "--model", model, "--engine", "opencv", "--shard", "2", "--out", "out"]
    process = subprocess.Popen([sys.executable, "-c", "from emotiw_keras.cli.main import main; main()", *words], text=True)
    end = time.monotonic() + 60
    while not list(Path("out").glob("part-*")) and time.monotonic() < end:
        time.sleep(0.05)
    workers = workers_of(process.pid)
    process.send_signal(number)
    assert process.wait(60) == code and workers
    while [worker for worker in workers if Path(f"/proc/{worker}").exists()] and time.monotonic() < end:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
