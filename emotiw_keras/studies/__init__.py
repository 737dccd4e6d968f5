"""Whole comparisons: many runs, scored and put into one table."""
