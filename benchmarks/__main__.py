"""The benchmark: chosen parts, one table each, and a JSON file with every figure.

python -m benchmarks --write
python -m benchmarks --parts train,forward --run runs/fer --json bench.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.report import Options, write_json, write_results
from benchmarks.turns import ROOT

PARTS = ("train", "forward", "fit", "frozen", "growth", "startup")
NEEDED = {"train": ("torch",), "forward": ("torch", "onnx", "onnxruntime", "openvino")}
NETWORKS = ("alexnet", "vgg_cnn_m_2048")
# the data of others, where it lies beside the repository
FACES = ROOT.parent / "shared/data/fer2013/fer2013_jpg.zip"
PHOTOS = ROOT.parent / "shared/data/photos"


def names(text: str) -> list[str]:
    """Parts, separated by commas."""
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in PARTS]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(PARTS)}")
    return chosen


def heading(facts: dict, options: Options) -> str:
    """A line that says where and when a section was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    quick = " `--quick`: the figures mean nothing." if options.quick else ""
    beyond = ", held to AVX2" if facts["held to AVX2"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {' '.join(facts['flags'])}{beyond}; {facts['memory_gib']} GiB; Python "
        f"{facts['python']}, {versions}. Medians of {options.rounds} rounds in turns, or of the runs that a table tells, "
        f"{time.strftime('%F')}.{quick}"
    )


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=names, default=list(PARTS), help=f"some of {','.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5, help="figures per contestant; medians are told (5)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="of the train part (both)")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256], help="of the train part (64 256)")
    parser.add_argument("--run", type=Path, help="a finished AlexNet run for the forward part (random weights)")
    parser.add_argument("--faces", type=Path, default=FACES if FACES.exists() else None, help="FER-2013 in any layout")
    parser.add_argument("--photos", type=Path, default=PHOTOS if PHOTOS.exists() else None, help="a folder of photos")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="file for every figure (bench.json)")
    parser.add_argument(
        "--avx2", action="store_true", help="compute as a processor with AVX2 only, as far as frameworks can be told"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/RESULTS.md")
    chosen = parser.parse_args()
    if chosen.avx2:
        machine.hold_to_avx2()
    missing = {package for part in chosen.parts for package in NEEDED.get(part, ()) if not importlib.util.find_spec(package)}
    if missing:
        parser.error(f"{', '.join(sorted(missing))} not installed: pip install -e '.[bench]', or choose other --parts")
    options = Options(
        quick=chosen.quick, rounds=1 if chosen.quick else chosen.rounds, run=chosen.run, faces=chosen.faces,
        photos=chosen.photos, networks=chosen.networks, batches=chosen.batches,
    )  # fmt: skip
    facts = machine.describe()
    line = heading(facts, options)
    print(line, flush=True)
    done = {}
    for name in chosen.parts:
        start = time.perf_counter()
        done[name] = []
        # after each table: what has been measured is kept if a later one fails
        for table in importlib.import_module(f"benchmarks.{name}").run(options):
            done[name].append(table)
            print("\n" + "\n".join(table.lines()), flush=True)
            write_json(chosen.json, facts, done)
            if chosen.write:
                write_results(name, done[name], line, facts["kind"])
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
