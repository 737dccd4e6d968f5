"""Paths, their changes and their contests: numbers alone, every one drawn from a seed.

A genotype is int (layers, active): module numbers. The path it stands for holds the distinct ones of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotiw_keras.errors import RunError

FARTHEST = 2
"""A gene changes by at most so much (Fernando et al. 2017)."""
Path = tuple[tuple[int, ...], ...]


def path_of(genotype: np.ndarray) -> Path:
    """The distinct modules of each layer, in rising order.

    Example:
        >>> path_of(np.array([[3, 0, 3], [1, 2, 0]]))
        ((0, 3), (0, 1, 2))
    """
    return tuple(tuple(int(gene) for gene in np.unique(genes)) for genes in genotype)


def path_text(path: Sequence[Sequence[int]]) -> str:
    """A path in one word.

    Example:
        >>> path_text(((0, 3), (0, 1, 2)))
        '0-3/0-1-2'
    """
    return "/".join("-".join(map(str, genes)) for genes in path)


def draw_population(count: int, layers: int, modules: int, active: int, generator: np.random.Generator) -> np.ndarray:
    """Genotypes drawn evenly: int64 (count, layers, active)."""
    return generator.integers(0, modules, (count, layers, active))


def mutate(genotype: np.ndarray, modules: int, generator: np.random.Generator) -> np.ndarray:
    """A copy in which each gene changes with probability 1 / (layers * active) by -2 to 2, evenly, modulo `modules`.

    A change of 0 is one of the five, so a gene ends up different with four fifths of that probability (fewer modules than five
    aside, where steps can meet).
    """
    changes = generator.random(genotype.shape) < 1 / genotype.size
    steps = generator.integers(-FARTHEST, FARTHEST + 1, genotype.shape)
    return (genotype + np.where(changes, steps, 0)) % modules


def draw_contestants(population: int, tournament: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of `tournament` different genotypes, evenly: int64 (tournament,)."""
    return generator.choice(population, tournament, replace=False)


def contest(
    population: np.ndarray,
    fitness: np.ndarray,
    contestants: np.ndarray,
    scores: Sequence[float],
    modules: int,
    generator: np.random.Generator,
) -> int:
    """Enter the scores of a generation and replace the losers by changed copies of the winner; the first of equals wins.

    Args:
        population: int (count, layers, active), changed in place.
        fitness: float (count,), the latest of each genotype, NaN where unknown; changed in place.
        contestants: int (tournament,).
        scores: of the contestants.
        modules: M.
        generator: of the changes.

    Returns:
        The winner's position in the population.
    """
    best = int(np.argmax(scores))
    winner = int(contestants[best])
    fitness[winner] = scores[best]
    for place in contestants:
        if place != winner:
            population[place] = mutate(population[winner], modules, generator)
            fitness[place] = np.nan
    return winner


def best_of(fitness: np.ndarray, last: int) -> int:
    """Position of the path with the highest latest fitness; of equals the last winner, then the first."""
    if np.isnan(fitness).all():
        raise RunError("no path has been trained yet")
    high = np.nanmax(fitness)
    return last if fitness[last] == high else int(np.flatnonzero(fitness == high)[0])
