"""What reading and converting a 244 MB `.caffemodel` costs: seconds and peak memory of whole processes.

Run it from the root of the repository, alone on the machine: `python -m benchmarks.convert_cost`. Files of other formats stand
beside it, each with its network: `--also alexnet.onnx alexnet --also net.mat vgg_cnn_m_2048`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

READ = """
import sys
from emotiw_keras.formats.reading import read
foreign = read(sys.argv[1])
assert sum(array.size for array in foreign.arrays.values()) == 60_965_224
assert float(sum(array.sum() for array in foreign.arrays.values())) != 0, "every value is touched"
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
WRITE = """
import sys
from pathlib import Path
from tests.formats import foreign_networks as foreign
foreign.write_caffe_files(Path(sys.argv[1]), foreign.network("alexnet"))
"""


def run(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process; a child's peak starts at its parent's size, so the parent stays small."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command[:6])} ended with {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def grey_rates(size: int = 8, rounds: int = 7) -> dict[str, float]:
    """Pictures per second forward of AlexNet on three channels and folded to one, in turns."""
    import keras
    import numpy as np

    from emotiw_keras.models import build, get_spec
    from emotiw_keras.models.grey_folding import fold_to_grey

    colour = build("alexnet", weights=None)
    models = {"colour": colour, "grey": fold_to_grey(colour, get_spec("alexnet").mean)}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            x = np.zeros((32, 227, 227, 3 if name == "colour" else 1), "float32")
            start = time.perf_counter()
            for _ in range(size):
                keras.ops.convert_to_numpy(model.predict_on_batch(x))
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: 32 * size / statistics.median(times) for name, times in seconds.items()}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--also", nargs=2, multiple=True, metavar="FILE NETWORK", help="Convert this file of NETWORK, too.")
def main(rounds: int, also: tuple[tuple[str, str], ...]) -> None:
    """Print medians over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-c", WRITE, folder])
        path = next(Path(folder).glob("*.caffemodel"))
        emotiw = [sys.executable, "-m", "emotiw_keras.cli.main", "convert"]
        out = ["--out", f"{folder}/out.weights.h5"]
        commands = {
            "file to arrays": (path, [sys.executable, "-c", READ, str(path)]),
            "emotiw convert --inspect": (path, [*emotiw, str(path), "--inspect"]),
            "emotiw convert": (path, [*emotiw, str(path), "--model", "alexnet", *out]),
        }
        for file, network in also:
            commands[Path(file).name] = (Path(file), [*emotiw, file, "--model", network, *out])
        rows = {}

        def fresh(command: list[str]) -> tuple[float, int]:
            Path(folder, "out.weights.h5").unlink(missing_ok=True)
            return run(command)

        for name, (file, command) in commands.items():
            size = file.stat().st_size
            fresh(command)
            times, peaks = zip(*(fresh(command) for _ in range(rounds)), strict=True)
            rows[name] = {"seconds": statistics.median(times), "peak": max(peaks) / size}
            click.echo(f"{name:32} {rows[name]['seconds']:6.2f} s   peak {rows[name]['peak']:.2f} x {size / 1e6:.0f} MB")
    rates = grey_rates()
    click.echo(f"AlexNet forward: {rates['colour']:.0f} colour, {rates['grey']:.0f} grey pictures per second")
    click.echo(json.dumps({**rows, "forward": rates}))


if __name__ == "__main__":
    main()
