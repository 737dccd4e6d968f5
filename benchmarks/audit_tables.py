"""The tables of AUDIT.md from what `emotiw audit --out DIR` wrote: they stand between two comments.

python -m benchmarks.audit_tables DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from emotiw_keras.reports.audit_page import audit_text

PAGE = Path(__file__).with_name("AUDIT.md")
BEGIN, END = "<!-- audit -->", "<!-- /audit -->"


def put(page: str, result: dict) -> str:
    """The page with the tables of an audit in place of those that it has."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no place between {BEGIN} and {END}")
    if result["data"]["limited"]:
        raise SystemExit("the audit asked about a part of the faces (--limit); expected all")
    if lost := [row["name"] for row in result["models"] if "error" in row]:
        raise SystemExit(f"the audit could not ask {', '.join(lost)}; mend that and run it again with --resume")
    return f"{before}{BEGIN}\n\n{audit_text(result)}\n\n{END}{after}"


def main() -> None:
    """Rewrite AUDIT.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_tables", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path, help="what `emotiw audit --out` wrote")
    result = json.loads((parser.parse_args().folder / "audit.json").read_text("utf-8"))
    PAGE.write_text(put(PAGE.read_text("utf-8"), result), "utf-8")


if __name__ == "__main__":
    main()
