"""Pages, charts, cards and tables of what `emotiw_keras.evaluation` and `emotiw_keras.studies` computed."""
