"""The contact sheet, decoded again."""

import cv2
import numpy as np
import pytest

from emotiw_keras.reports.prediction_sheet import BAR, FACE, FRAME, GAP, RIGHT, TEXT, UNKNOWN, WRONG, Caption, contact_sheet


def _frame(sheet: np.ndarray, column: int, row: int = 0) -> tuple[int, ...]:
    """Colour (RGB) in the middle of the left frame of a cell."""
    side = FACE + 2 * FRAME
    x = GAP + column * (side + GAP) + FRAME // 2
    y = GAP + row * (side + 2 * TEXT + BAR + 8 + GAP) + side // 2
    return tuple(int(value) for value in sheet[y, x])


def test_frames_say_right_wrong_unknown_and_faces_are_there(tmp_path):
    images = np.stack([np.full((48, 48, 1), tone, np.uint8) for tone in (40, 120, 200)])
    captions = [Caption("happy", 0.9, "happy"), Caption("happy", 0.6, "sad"), Caption("happy", 0.5)]
    contact_sheet(images, captions, tmp_path / "sheet.png", columns=3)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert [_frame(sheet, column) for column in range(3)] == [RIGHT, WRONG, UNKNOWN]
    centres = [GAP + FRAME + FACE // 2 + column * (FACE + 2 * FRAME + GAP) for column in range(3)]
    assert [int(sheet[GAP + FRAME + FACE // 2, x, 0]) for x in centres] == [40, 120, 200]


def test_the_bar_is_as_long_as_the_probability(tmp_path):
    images = np.full((2, 20, 30, 3), 128, np.uint8)
    contact_sheet(images, [Caption("a", 0.25, "a"), Caption("a", 0.75, "a")], tmp_path / "sheet.png", columns=2)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    side = FACE + 2 * FRAME
    y = GAP + side + 4 + TEXT + 2 + BAR // 2
    for column, share in enumerate((0.25, 0.75)):
        left = GAP + column * (side + GAP)
        green = (sheet[y, left : left + side] == RIGHT).all(axis=-1).sum()
        assert green == pytest.approx(share * side, abs=2)


def test_rows_columns_and_title(tmp_path):
    images = np.zeros((5, 8, 8, 1), np.uint8)
    captions = [Caption("a rather long class name", 1.0, "another long class name")] * 5
    contact_sheet(images, captions, tmp_path / "plain.png", columns=2)
    contact_sheet(images, captions, tmp_path / "titled.png", columns=2, title="five faces " * 20)
    plain, titled = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("plain", "titled"))
    assert plain.shape[1] == titled.shape[1] == 3 * GAP + 2 * (FACE + 2 * FRAME)
    assert plain.shape[0] < titled.shape[0]
    assert (plain[-GAP - TEXT - FACE :, -GAP - FACE :] == 255).all()  # the sixth place stays empty


def test_images_and_captions_must_belong_together(tmp_path):
    with pytest.raises(ValueError, match="2 captions"):
        contact_sheet(np.zeros((1, 8, 8, 1), np.uint8), [Caption("a", 1.0)] * 2, tmp_path / "x.png")
    with pytest.raises(ValueError, match="float64"):
        contact_sheet(np.zeros((1, 8, 8, 1)), [Caption("a", 1.0)], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
