"""A contestant for the tests: its output is the first argument, its figures count up from the second."""

from __future__ import annotations

import itertools
import sys

import numpy as np

from benchmarks.turns import serve

if __name__ == "__main__":
    figures = itertools.count(int(sys.argv[2]))
    serve(np.array([1.0, float(sys.argv[1])]), lambda question: next(figures))
