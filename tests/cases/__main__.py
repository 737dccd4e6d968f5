"""Try known faults again, all of a folder: `python -m tests.cases ../shared/cases`, or some: `... heic-folder
film-name-colon`.

The folder holds a folder for each case: a README and what shows the fault. Each has a check here by its name, which runs its
command and looks at exit code and answer; a traceback is wrong anywhere, and so is a case that has no check.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.cases import photos, runs, use, weights
from tests.cases.tools import Case, Wrong


def try_case(folder: Path) -> tuple[str, Case]:
    """What is wrong with a case, in words ("" if nothing is), and what was run."""
    name = folder.name.replace("-", "_")
    check = next((getattr(part, name) for part in (photos, runs, use, weights) if hasattr(part, name)), None)
    with tempfile.TemporaryDirectory() as work:
        case = Case(folder, Path(work).resolve())
        if check is None:
            return "no check knows this case", case
        here = Path.cwd()
        try:
            check(case)
        except Wrong as error:
            return str(error), case
        except Exception:  # told in full: the check itself may be at fault
            return traceback.format_exc(limit=-3), case
        finally:
            os.chdir(here)
    return "", case


def main() -> int:
    """The command line: 1 if any case is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description="Try known faults again.")
    parser.add_argument("cases", type=Path, help="the folder of cases")
    parser.add_argument("names", nargs="*", help="of single cases; all without")
    parser.add_argument("--commands", action="store_true", help="show what was run, too")
    chosen = parser.parse_args()
    folders = sorted(folder for folder in chosen.cases.resolve().iterdir() if folder.is_dir())
    if unknown := set(chosen.names) - {folder.name for folder in folders}:
        parser.error(f"no case {', '.join(sorted(unknown))} in {chosen.cases}")
    wrong = tried = 0
    for folder in folders:
        if chosen.names and folder.name not in chosen.names:
            continue
        started = time.monotonic()
        fault, case = try_case(folder)
        tried += 1
        wrong += bool(fault)
        codes = " ".join(str(code) for _, code, _ in case.commands)
        print(
            f"{folder.name:36} {'WRONG' if fault else 'right':6} {time.monotonic() - started:6.1f} s  exit codes {codes}",
            flush=True,
        )
        if chosen.commands:
            for command, code, line in case.commands:
                print(f"    {command[:150]} -> {code}: {ascii(line)[1:150]}")
        for line in fault.splitlines():
            print(f"    {line}")
    print(f"{tried} cases, {tried - wrong} right, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
