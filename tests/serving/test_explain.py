"""`--explain` and `--crops` of `emotiw predict`: an image for each face, the answers of evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.errors import RunError, UsageError
from emotiw_keras.evaluation.evaluate import predict as evaluated
from emotiw_keras.evaluation.evaluate import read_source
from emotiw_keras.gradcam import LayerCam, overlay
from emotiw_keras.runs import Run
from emotiw_keras.serving.explain import CAPTION, SIDE
from emotiw_keras.serving.predictor import Predictor
from tests.serving.marked import background, frames_of, put_face, write_video


def test_each_face_becomes_an_image_of_itself_and_of_its_heat(predict: Callable, run_folder: Path, tmp_path: Path) -> None:
    face = draw_faces(1, size=48)[0][0]
    (tmp_path / "faces" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.jpg"):
        Image.fromarray(face[..., 0]).save(tmp_path / "faces" / name)
    done = predict("faces", "faces/a.png", "--faces", "whole", "--explain", "why", "--batch-size", 2)
    assert done.code == 0, done.err
    written = sorted(str(path.relative_to(tmp_path / "why")) for path in (tmp_path / "why").rglob("*.png"))
    assert written == ["a-face0-2.png", "a-face0.png", "sub/a-face0.png"]
    sheet = np.asarray(Image.open(tmp_path / "why" / "a-face0.png"))
    assert sheet.shape == (SIDE + CAPTION, 2 * SIDE, 3)
    # The left half is the face itself, the right half the LayerCAM of the label that the row names, by the parts it is made of.
    predictor = Predictor(run_folder)
    prepared = predictor.prepare(face)
    label = predictor.labels.index(done.rows[0]["label"])
    plain = overlay(prepared, np.zeros((2, 2), np.float32), SIDE)
    np.testing.assert_array_equal(sheet[:SIDE, :SIDE], plain)
    heat = LayerCam(predictor.net)(predictor.face_input(prepared[None]), np.array([label]))[0]
    changed = np.abs(sheet[:SIDE, SIDE:].astype(int) - plain).sum(axis=-1)
    room = predictor.face_input.room // 2 * SIDE // predictor.side
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    inside = (SIDE - 2 * room) / heat.shape[0]
    row, column = (int(room + (place + 0.5) * inside) for place in hottest)
    assert heat.max() == 1 and changed[row, column] > 60
    assert changed[: max(room - 2, 1), :].max() == 0, "outside of the crop nothing is coloured"


def test_videos_and_images_without_a_face(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames_of(3), rate=10)
    photo = background()
    put_face(photo, 20, 30, 96)
    put_face(photo, 150, 30, 96)
    Image.fromarray(photo).save(tmp_path / "two.png")
    Image.fromarray(background()).save(tmp_path / "none.png")
    (tmp_path / "torn.png").write_bytes(b"torn")
    done = predict("clip.mp4", "two.png", "none.png", "torn.png", "--explain", "why", "--annotate", "seen")
    assert done.code == 3
    written = sorted(str(path.relative_to(tmp_path / "why")) for path in (tmp_path / "why").rglob("*.png"))
    videos = [f"clip.mp4/{frame:06d}-face0.png" for frame in range(3)]
    assert written == [*videos, "two-face0.png", "two-face1.png"]


def test_nothing_is_written_over(predict: Callable, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.png").write_bytes(b"mine")
    Image.fromarray(background()).save(tmp_path / "a.png")
    done = predict("a.png", "--faces", "whole", "--explain", "full")
    assert done.code == 6 and "not empty" in done.err and done.rows == []
    assert predict(".", "--faces", "whole", "--explain", "new").code == 2


@pytest.mark.parametrize("crops", [1, 2, 10])
def test_predict_answers_as_evaluate_does(run_folder: Path, tmp_path: Path, crops: int) -> None:
    run = Run.open(run_folder)
    faces = read_source(run, "generated:small", limit=7)
    indices = faces.indices("test")[:5]
    predictor = Predictor(run, crops=crops)
    found = predictor.predict(faces.pixels.gather(indices))
    np.testing.assert_allclose(found, evaluated(run, faces, indices, crops=crops), atol=1e-5)
    if crops == 2:
        prepared = np.asarray(run.face_input()(faces.pixels.gather(indices)))
        plain, mirrored = (np.asarray(run.build()(each)) for each in (prepared, prepared[:, :, ::-1]))
        np.testing.assert_allclose(found, (plain + mirrored) / 2, atol=1e-5)
        assert np.abs(found - plain).max() > 1e-3


def test_a_run_carries_its_own_number_of_crops(run_folder: Path, predict: Callable, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "crops": 2}))
    face = draw_faces(1, size=64, seed=9)[0]
    assert Predictor(folder).crops == 2 and Predictor(folder, crops=1).crops == 1
    np.testing.assert_allclose(Predictor(folder).predict(face), Predictor(run_folder, crops=2).predict(face), atol=1e-6)
    Image.fromarray(face[0, ..., 0]).save(tmp_path / "a.png")
    row = predict("a.png", "--faces", "whole", "--crops", 10).rows[0]
    expected = Predictor(run_folder, crops=10).predict(face)[0]
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-6)
    with pytest.raises(UsageError, match="crops must be 1"):
        Predictor(folder, crops=3)
    (folder / "run.json").write_text(json.dumps({**info, "crops": 4}))
    with pytest.raises(RunError, match="crops = 4"):
        Predictor(folder)


@pytest.mark.slow
def test_the_savedmodel_averages_as_the_run_says(run_folder: Path, tmp_path: Path) -> None:
    from emotiw_keras.serving.export import export_savedmodel

    folder = shutil.copytree(run_folder, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "crops": 2}))
    report = export_savedmodel(folder, tmp_path / "served")
    assert report.largest_difference <= 1e-5
    assert json.loads((tmp_path / "served" / "1" / "assets" / "emotiw.json").read_text())["crops"] == 2
