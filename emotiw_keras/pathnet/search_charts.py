"""Images of a search: fitness over generations, the path as it evolves, and what two tasks' paths share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emotiw_keras.files import write_encoded
from emotiw_keras.text import number_of

DOT, LINE, FROZEN, OWN, REUSED, UNUSED = "#54aeff", "#0a3069", "#8c959f", "#0969da", "#bc4c00", "#f6f8fa"
SMOOTHED = 10
Rows = Sequence[Mapping[str, Any]]
PathLike = str | os.PathLike[str]


def draw_fitness(log: Rows, png: PathLike) -> None:
    """Fitness of every trial, and the mean of the last ten winners, one panel a search.

    Args:
        log: rows of search.csv.
        png: the image to write, in one step.

    Raises:
        OutputError: the image cannot be written.
    """
    names = list(dict.fromkeys(row["search"] for row in log))
    figure = _figure(5.2 * len(names), 3.8)
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), number)
        rows = [row for row in log if row["search"] == name]
        axes.plot([row["generation"] for row in rows], [row["fitness"] for row in rows], ".", color=DOT, markersize=3)
        won = [(row["generation"], row["fitness"]) for row in rows if row["won"]]
        smooth = [np.mean([fitness for _, fitness in won[max(0, i + 1 - SMOOTHED) : i + 1]]) for i in range(len(won))]
        axes.plot([generation for generation, _ in won], smooth, color=LINE, label=f"winners, mean of {SMOOTHED}")
        axes.set_ylim(0, 1)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("generation")
        axes.set_ylabel("fitness (training accuracy)" if number == 1 else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    _write(figure, png)


def draw_paths(log: Rows, results: Rows, layers: int, modules: int, png: PathLike) -> None:
    """For each search the winner's modules in every generation, and beside it the best path in the end.

    Modules that were frozen when the search began stand out, and so do those of them that the best path uses: the overlap of
    the tasks' paths, with the number that would be expected of an evenly drawn path.

    Args:
        log: rows of search.csv.
        results: of the searches, as in run.json's "stages".
        layers: L.
        modules: M.
        png: the image to write, in one step.

    Raises:
        OutputError: the image cannot be written.
    """
    figure = _figure(11, 0.6 + 3.4 * len(results))
    grid = figure.add_gridspec(len(results), 2, width_ratios=(3, 1))
    for number, result in enumerate(results):
        rows = [row for row in log if row["search"] == result["name"] and row["won"]]
        _evolution(figure.add_subplot(grid[number, 0]), rows, result, layers, modules)
        _overlap(figure.add_subplot(grid[number, 1]), result, layers, modules)
    kinds = {"own": OWN, "frozen before, reused": REUSED, "frozen before": FROZEN}
    legend = [Patch(color=colour, label=label) for label, colour in kinds.items()]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _write(figure, png)


def expected_overlap(path: Sequence[Sequence[int]], frozen: Sequence[Sequence[int]], modules: int) -> float:
    """How many modules of a path would be frozen ones if each of its layers were drawn evenly without return.

    Example:
        >>> expected_overlap([[0, 1, 2]], [[5, 6]], 10)
        0.6
    """
    return sum(len(genes) * len(held) for genes, held in zip(path, frozen, strict=True)) / modules


def _evolution(axes: Axes, rows: Rows, result: Mapping[str, Any], layers: int, modules: int) -> None:
    image = np.zeros((layers * modules, max((int(row["generation"]) for row in rows), default=1)))
    held = {(layer, gene) for layer, genes in enumerate(result["frozen"]) for gene in genes}
    for row in rows:
        for layer, genes in enumerate(str(row["path"]).split("/")):
            for gene in map(int, genes.split("-")):
                image[layer * modules + gene, int(row["generation"]) - 1] = 2 if (layer, gene) in held else 1
    colours = np.array([_rgb(UNUSED), _rgb(OWN), _rgb(REUSED)])
    axes.imshow(
        colours[image.astype(int)],
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, image.shape[1] + 0.5, layers * modules - 0.5, -0.5),
    )
    for layer in range(1, layers):
        axes.axhline(layer * modules - 0.5, color="#57606a", linewidth=0.8)
    axes.set_yticks([layer * modules + (modules - 1) / 2 for layer in range(layers)], [f"layer {n + 1}" for n in range(layers)])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.set_title(f"{result['name']}: modules of each winner", fontsize=11)


def _overlap(axes: Axes, result: Mapping[str, Any], layers: int, modules: int) -> None:
    colours = np.tile(_rgb(UNUSED), (modules, layers, 1))
    for layer, (genes, held) in enumerate(zip(result["path"], result["frozen"], strict=True)):
        colours[held, layer] = _rgb(FROZEN)
        colours[genes, layer] = _rgb(OWN)
        colours[result["reused"][layer], layer] = _rgb(REUSED)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(layers), [str(n + 1) for n in range(layers)])
    axes.set_yticks(range(modules))
    axes.tick_params(labelsize=7)
    axes.set_xlabel("layer")
    shared, count = sum(map(len, result["reused"])), sum(map(len, result["path"]))
    title = f"best path: {number_of(count, 'modules')}"
    if any(result["frozen"]):
        title += f", {shared} reused\n(by chance {expected_overlap(result['path'], result['frozen'], modules):.1f})"
    axes.set_title(title, fontsize=10)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(max(width, 6), height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, png: PathLike) -> None:
    write_encoded(png, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))
