"""`emotiw serve` under load: many clients at once, each answer checked, memory watched.

python -m benchmarks.serve_load --requests 1000 --clients 50
python -m benchmarks.serve_load --requests 1000 --clients 50 --queue 8      # a queue that is full most of the time

Each client sends one picture after the other over its own connection. What it gets must be the rows that the same picture had
when it was asked for alone, under the name of this very request; anything else is counted as lost, and the command fails. A
client that is told to come again (503) does so after the seconds it was told, over a new connection. Memory is that of the
service and of its decoders, from /proc, and so Linux alone.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import math
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from emotiw_keras.data.generated import draw_faces

PICTURES = 7
WIDTH, HEIGHT, FACE = 640, 480, 240
ROUNDING = 1e-4
"""Probabilities of one picture in batches of several sizes differ by less."""
COMMAND = [sys.executable, "-c", "from emotiw_keras.cli.main import main; main()", "serve", "--port", "0"]


def pictures() -> list[bytes]:
    """JPEG files of a drawn face each."""
    files = []
    for face in draw_faces(PICTURES, size=FACE, seed=7)[0]:
        picture = np.full((HEIGHT, WIDTH, 3), 190, np.uint8)
        picture[120 : 120 + FACE, 200 : 200 + FACE] = face
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


def resident(process: int) -> int:
    """Bytes that a process and all below it hold; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own + sum(resident(int(child)) for child in below)


@dataclass
class Load:
    """What clients do to a service on a port, and what they saw."""

    port: int
    files: list[bytes]
    alone: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: int = 0

    def ask(self, connection: http.client.HTTPConnection, number: int) -> dict[str, Any]:
        """The only row of a picture, after as many refusals as it takes."""
        kind = {"Content-Type": "image/jpeg", "Accept": "application/x-ndjson"}
        while True:
            connection.request("POST", f"/predict?name={number}.jpg", self.files[number % len(self.files)], kind)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                return json.loads(body)
            after = answer.getheader("Retry-After")
            if answer.status != 503 or after is None:
                raise ValueError(f"status {answer.status}: {body[:200]!r}")
            self.refused += 1
            connection.close()
            time.sleep(float(after))

    def client(self, numbers: itertools.count[int], count: int) -> None:
        """One client: the next number until there are none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        while (number := next(numbers)) < count:
            start = time.perf_counter()
            try:
                row = self.ask(connection, number)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.lost.append(f"{number}: {error!r}")
                connection.close()
                continue
            self.seconds.append(time.perf_counter() - start)
            wrong = self.difference(row, number)
            if wrong:
                self.lost.append(f"{number}: {wrong}")

    def difference(self, row: dict[str, Any], number: int) -> str:
        """How a row is not what the picture had alone; nothing if it is."""
        alone = self.alone[number % len(self.files)]
        if row["path"] != f"{number}.jpg":
            return f"answered as {row['path']}"
        if any(row[key] != alone[key] for key in ("face", "box", "label", "error")):
            return f"{row} instead of {alone}"
        far = max(abs(row["probabilities"][label] - value) for label, value in alone["probabilities"].items())
        return f"probabilities differ by {far:.2g}" if far > ROUNDING else ""


def measure(count: int, clients: int, options: list[str]) -> dict[str, Any]:
    """A service from its start to its end, and what so many requests of so many clients saw of it."""
    process = subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if "http://" not in line:
            raise SystemExit(f"the service does not start: {line}{process.stderr.read()}")
        load = Load(int(line.split("/")[2].split(":")[1]), pictures())
        connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=300)
        load.alone = [load.ask(connection, number) for number in range(len(load.files))]
        memory: list[int] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                memory.append(resident(process.pid))

        numbers = itertools.count()
        threads = [threading.Thread(target=load.client, args=(numbers, count)) for _ in range(clients)]
        watching = threading.Thread(target=watch)
        start = time.perf_counter()
        for thread in (watching, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - start
        ended.set()
        watching.join()
    finally:
        process.terminate()
        code = process.wait(60)
    half = len(memory) // 2
    return {
        "requests": count,
        "clients": clients,
        "options": options,
        "answered": len(load.seconds),
        "lost": load.lost,
        "refused": load.refused,
        "requests_per_second": count / taken,
        "p50": percentile(load.seconds, 50),
        "p99": percentile(load.seconds, 99),
        "megabytes_first_half": max(memory[:half], default=0) / 2**20,
        "megabytes_second_half": max(memory[half:], default=0) / 2**20,
        "exit_code": code,
        **describe(),
    }


def percentile(values: list[float], share: float) -> float:
    """Of seconds; NaN where there are none."""
    return float(np.percentile(values, share)) if values else math.nan


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 if every request was answered as it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--queue", type=int, help="pictures that may wait, as of `emotiw serve`")
    parser.add_argument("--engine", default="auto", help="as of `emotiw serve`")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    given = parser.parse_args(arguments)
    options = ["--engine", given.engine, *(["--queue", str(given.queue)] if given.queue else [])]
    found = measure(given.requests, given.clients, options)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{found['answered']} of {found['requests']} requests answered, {len(found['lost'])} lost, {found['clients']} clients"
    )
    print(f"{found['requests_per_second']:.1f} requests a second; p50 {found['p50']:.3f} s, p99 {found['p99']:.3f} s")
    print(f"told to come again {found['refused']} times")
    print(
        f"memory at most {found['megabytes_first_half']:.0f} MB in the first half, {found['megabytes_second_half']:.0f} after"
    )
    for each in found["lost"][:10]:
        print(f"lost: {each}")
    return int(bool(found["lost"]) or found["answered"] != found["requests"])


if __name__ == "__main__":
    sys.exit(main())
