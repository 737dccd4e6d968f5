"""`FaceInput` and `draw_crops` by the name that 0.1 had for their module; `emotiw_keras.data` has the layer."""

from emotiw_keras.data.face_input import FaceInput, draw_crops

__all__ = ["FaceInput", "draw_crops"]
