"""Probabilities of faces in memory."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.resize import resize
from emotiw_keras.errors import DataError, RunError, UsageError
from emotiw_keras.runs import Run
from emotiw_keras.serving.inputs import read_inputs
from emotiw_keras.serving.pipeline import Pipeline
from emotiw_keras.serving.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(run_folder: Path) -> Predictor:
    return Predictor(run_folder, batch_size=4)


def faces(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(11)
    return [resize(generator.integers(0, 256, (6, 6, shape[2]), np.uint8), *shape[:2]) for shape in shapes]


def test_probabilities_are_those_of_the_net_itself(predictor: Predictor, run_folder: Path) -> None:
    images = np.stack(faces(*[(48, 48, 1)] * 6))
    run = Run.open(run_folder)
    expected = np.asarray(run.build()(run.face_input()(images), training=False))
    found = predictor.predict(images)
    assert found.shape == (6, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    # Otherwise the comparison would pass for any net.
    assert expected.std(axis=0).max() > 0.05


def test_bfloat16_answers_nearly_the_same_and_computes_otherwise(predictor: Predictor, run_folder: Path) -> None:
    images = faces(*[(48, 48, 1)] * 6)
    half = Predictor(run_folder, precision="mixed_bfloat16")
    assert half.net.get_layer("conv1").compute_dtype == "bfloat16"
    gap = np.abs(half.predict(images) - predictor.predict(images)).max()
    assert 0 < gap < 0.1
    with pytest.raises(UsageError, match="precision='float64': expected one of float32, mixed_bfloat16, mixed_float16"):
        Predictor(run_folder, precision="float64")


def test_mixed_sizes_and_channels_in_one_call(predictor: Predictor) -> None:
    images = faces((48, 48, 1), (300, 200, 3), (31, 64, 1), (97, 97, 3), (76, 76, 1))
    together = predictor.predict(images)
    alone = np.concatenate([predictor.predict([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_grey_in_one_channel_three_or_none_is_the_same(predictor: Predictor) -> None:
    (grey,) = faces((60, 50, 1))
    found = predictor.predict([grey, np.repeat(grey, 3, axis=-1), grey[..., 0]])
    np.testing.assert_allclose(found[1:], found[:1].repeat(2, axis=0), atol=1e-6)


def test_colour_counts_where_the_run_was_trained_on_it(colour_run_folder: Path) -> None:
    predictor = Predictor(colour_run_folder)
    (face,) = faces((60, 60, 3))
    found = predictor.predict([face, face[..., ::-1]])
    assert predictor.labels == ("calm", "glad", "tense")
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_no_faces_give_no_rows(predictor: Predictor) -> None:
    assert predictor.predict([]).shape == (0, 7)


@pytest.mark.parametrize("image", (np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 1), np.uint8)))
def test_what_is_no_face_is_refused_in_words(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected uint8 of \(height, width\)"):
        predictor.predict([image])


def test_one_image_alone_is_refused_in_words(predictor: Predictor) -> None:
    (colour,), (grey,) = faces((344, 450, 3)), faces((48, 48, 1))
    for image in (colour, grey, grey[..., 0], "a.png", b"...", Path("a.png"), Image.fromarray(colour)):
        with pytest.raises(DataError, match=r"one image .*predict\(\[image\]\)"):
            predictor.predict(image)
    np.testing.assert_array_equal(predictor.predict(grey[None, ..., 0]), predictor.predict(grey[None]))


def test_what_is_no_sequence_of_images_is_refused_in_words(predictor: Predictor) -> None:
    (face,) = faces((48, 48, 1))
    for images in ((each for each in [face]), {"a": face}, {1}, None, np.array(5), map(str, [])):
        with pytest.raises(DataError, match=rf"images are a {type(images).__name__}; expected a list of them"):
            predictor.predict(images)  # type: ignore[arg-type]
    for sequence in ((face, face), collections.deque([face, face])):
        np.testing.assert_array_equal(predictor.predict(sequence), predictor.predict([face, face]))
    for frames in (None, {"a": face}):
        with pytest.raises(DataError, match="expected them one by one"):
            predictor.stream(frames)  # type: ignore[arg-type]


def test_images_of_pillow_and_files_are_what_they_show(predictor: Predictor, tmp_path: Path) -> None:
    (face,) = faces((64, 60, 3))
    shown = Image.fromarray(face).quantize(64)
    expected = predictor.predict([np.asarray(shown.convert("RGB"))])
    shown.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    found = predictor.predict([shown, shown.convert("RGBA"), tmp_path / "a.png", str(tmp_path / "a.png"), data])
    np.testing.assert_allclose(found, expected.repeat(5, axis=0), atol=1e-5)
    for bad in (tmp_path / "none.png", tmp_path, b"no image", Image.fromarray(np.zeros((9, 9), np.float32))):
        with pytest.raises(DataError):
            predictor.predict([bad])


def test_a_batch_is_a_whole_number_of_faces(run_folder: Path) -> None:
    for wrong in (0, 2.5, True, "64"):
        with pytest.raises(UsageError, match=f"batch_size = {wrong!r}: expected a whole number, at least 1"):
            Predictor(run_folder, batch_size=wrong)  # type: ignore[arg-type]


def test_a_detector_of_ones_own_knows_its_smallest_face(run_folder: Path) -> None:
    with pytest.raises(UsageError, match="min_face=40 cannot be combined with a detector of your own"):
        Predictor(run_folder, detector=object(), min_face=40)  # type: ignore[arg-type]


def test_an_unfinished_or_damaged_run_is_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run.json"):
        Predictor(tmp_path)
    info = json.loads((run_folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**info, "finished": False}))
    with pytest.raises(RunError, match="not finished"):
        Predictor(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(info))
    weights = bytearray((run_folder / "model.weights.h5").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "model.weights.h5").write_bytes(weights)
    with pytest.raises(RunError, match="SHA-256"):
        Predictor(tmp_path)


def test_faces_of_a_photo_are_those_that_the_command_finds(shared_data: Path) -> None:
    """Small ones too: a photo is no frame of a video, in which smaller faces are passed over."""
    photo = shared_data / "photos" / "dlib_faces" / "faces" / "2008_002079.jpg"
    predictor = Predictor("fer28-face-vgg-votes")
    found = predictor.faces(photo)
    (reading,) = Pipeline(predictor).read(read_inputs([str(photo)]))
    assert [(face.box, face.probabilities) for face in found] == [(face.box, face.probabilities) for face in reading.faces]
    assert len(found) == 6 > len(next(predictor.stream([photo])))
