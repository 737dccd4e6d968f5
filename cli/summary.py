"""`emotiw summary`: what the parts of `emotiw predict --out` or `emotiw prepare --runner` say together."""

from __future__ import annotations

import click

from emotiw_keras.cli.console import put, tell
from emotiw_keras.cli.places import ANYWHERE, LOCAL


@click.command()
@click.argument("folder", type=ANYWHERE, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--html", "page", type=LOCAL, metavar="FILE", help="Write a page as well.")
@click.option("--check", is_flag=True, help="Also read the tars of `prepare`, and see that they are whole.")
def summary(folder: str, as_json: bool, page: str | None, check: bool) -> None:
    """Count what stands in the parts in DIR, a folder or an address: faces, expressions (of films over time), histograms,
    and failures by kind. Every part is compared with its hash on the way.

    \b
    Examples:
      emotiw summary read --html read.html
      emotiw summary s3://bucket/read --json
    """
    from emotiw_keras.bulk.summary import lines, summarise
    from emotiw_keras.files import check_ours, write_atomic
    from emotiw_keras.reports.bulk_page import TITLE, summary_page
    from emotiw_keras.sealed import json_text
    from emotiw_keras.text import shown

    if page is not None:
        check_ours(page, f"<title>{TITLE}", "a page")
    found = summarise(folder, check)
    put(json_text(found.as_dict()) if as_json else "\n".join(map(shown, lines(found))))
    if page is not None:
        write_atomic(page, summary_page(found, folder))
        tell(f"emotiw: {page}")
