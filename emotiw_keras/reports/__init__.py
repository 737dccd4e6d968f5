"""Pages, charts, cards and tables of what `emotiw_keras.evaluation` and `emotiw_keras.studies` computed.

Example:
    >>> write_report("report", assess(Run.open("runs/ng"), "faces.zip"))  # doctest: +SKIP
"""
