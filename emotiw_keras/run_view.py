"""A run for people: its stages and learning curves as part of a page, and the frame that a notebook shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotiw_keras.charts import curve_chart
from emotiw_keras.errors import DataError, RunError
from emotiw_keras.history import parse_history
from emotiw_keras.html import Html, joined, page, table, tag

if TYPE_CHECKING:
    from emotiw_keras.runs import Run


def training(run: Run) -> Html:
    """Learning curves and results of the stages."""
    rows = []
    for stage in run.info["stages"]:
        accuracy, f1 = stage.get("val_accuracy"), stage.get("val_macro_f1")
        rows.append(
            (
                stage["name"],
                f"{stage.get('images', 0):,}",
                stage.get("epochs", "-"),
                stage.get("best_epoch", "-"),
                "-" if accuracy is None else f"{100 * accuracy:.1f} %",
                "-" if f1 is None else f"{f1:.3f}",
            )
        )
    head = ["stage", "images", "epochs", "best epoch", "val accuracy", "val macro F1"]
    again = run.info.get("refitted", {}).get("stage")
    scored = "" if again is None else f"; {again} was scored before it was fitted again with its validation images"
    stages = table(head, rows, f"Stages, in their order{scored}") if rows else tag("p", "The run has no record of its stages.")
    try:
        epochs = parse_history(run.content("history.csv"), run.path / "history.csv")
    except (DataError, RunError) as error:
        return joined(tag("p", f"No learning curves: {error}.", class_="quiet"), stages)
    kinds = (("key", "train"), ("key val", "val"))
    key = tag("p", [(tag("span", class_=kind, aria_hidden="true"), name) for kind, name in kinds])
    figures = [tag("figure", curve_chart(epochs, measure)) for measure in ("accuracy", "loss")]
    return joined(stages, key, tag("div", figures, class_="charts"))


def run_view(run: Run) -> str:
    """HTML for a notebook: a frame of its own, which runs no script and whose style leaves the notebook's alone."""
    head = f"{run.model_name}, {len(run.labels)} classes: {', '.join(run.labels)}"
    heads = f" The answers of head {run.head.name}." if run.head is not None else ""
    whole = page(run.name, tag("h1", run.name), tag("p", f"{head}.{heads}", class_="quiet"), training(run))
    style = "width: 100%; height: 34rem; border: 0; resize: vertical"
    return tag("iframe", srcdoc=whole, sandbox="", title=f"Run {run.name}", style=style)
