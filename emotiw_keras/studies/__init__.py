"""Whole comparisons: many runs, scored and told as one table."""
