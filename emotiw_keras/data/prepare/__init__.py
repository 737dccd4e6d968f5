"""Photos of a raw data set -> aligned grey faces, one PNG a face, and `faces.csv` (Ng et al. 2015, section 3.1)."""

from emotiw_keras.data.prepare.face_settings import FACES, NO_FACE, Settings
from emotiw_keras.data.prepare.run import prepare
from emotiw_keras.data.prepare.summary import Group, Summary

__all__ = ["FACES", "NO_FACE", "Group", "Settings", "Summary", "prepare"]
