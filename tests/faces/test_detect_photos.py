"""The detectors on real photos whose eyes are known."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.detectors import Photo, matched, measure, mirrored, moved, read_image, read_photos
from emotiw_keras.faces import Face, detect, get_detector
from emotiw_keras.faces.mesh import SIDE, FaceMesh, Square, eye_centres, square_of_points, upright_square


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Photo]:
    return read_photos(shared_data / "photos" / "dlib_faces" / "faces")


@pytest.fixture(scope="module")
def two_faces(shared_data: Path) -> np.ndarray:
    return read_image(shared_data / "photos" / "mtcnn_test1.jpg")


def test_the_default_finds_42_of_43_faces_and_their_eyes(photos: list[Photo]) -> None:
    row = measure(get_detector(), photos, "as they are")
    assert (row.faces, row.false_boxes) == (43, 0)
    assert row.found >= 42
    assert row.eye_error_median <= 0.04


def test_the_default_finds_no_face_where_there_is_none(shared_data: Path) -> None:
    files = sorted((shared_data / "photos" / "noface").iterdir())
    assert len(files) == 11
    assert sum(len(detect(read_image(file))) for file in files) <= 1


def test_small_faces_of_a_large_photo_are_found(photos: list[Photo]) -> None:
    """Faces of 36 pixels, the eyes 15 apart, over 3000 x 2000 pixels: the whole was looked at in sixteenths of 923 pixels."""
    canvas, eyes = np.full((2000, 3000, 3), 110, np.uint8), []
    for photo in photos:
        for pair in photo.eyes:
            distance = np.linalg.norm(pair[1] - pair[0])
            left, top = np.maximum(0, pair.mean(axis=0) - 4 * distance).astype(int)
            part = photo.image[top : top + int(8 * distance), left : left + int(8 * distance)]
            small = cv2.resize(part, None, fx=15 / distance, fy=15 / distance, interpolation=cv2.INTER_AREA)
            x, y = 40 + len(eyes) % 9 * 320, 40 + len(eyes) // 9 * 380
            canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
            eyes.append((pair - (left, top)) * 15 / distance + (x, y))
    assert len(eyes) == 43
    assert len(matched(detect(canvas), np.array(eyes))) >= 40
    assert len(matched(detect(canvas, get_detector(min_face=100)), np.array(eyes))) < 20


def test_crops_of_turned_photos_have_the_true_eyes_in_place(photos: list[Photo]) -> None:
    row = measure(get_detector(), [moved(photo, angle, 1) for photo in photos[::2] for angle in (-30, 30)], "turned")
    assert row.crop_error_median <= 5
    assert row.crop_error_p90 <= 12


def test_viola_jones_finds_most_faces(photos: list[Photo]) -> None:
    row = measure(get_detector("viola_jones"), photos, "as they are")
    assert row.found >= 30
    assert row.eye_error_median <= 0.1


def test_yunet_finds_what_the_default_finds(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_faces: np.ndarray
) -> None:
    from emotiw_keras.faces.yunet import YuNetDetector

    folder = tmp_path / "files" / "yunet"
    folder.mkdir(parents=True)
    name = "face_detection_yunet_2023mar.onnx"
    (folder / name).write_bytes((shared_data / "face_models" / name).read_bytes())
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    faces = YuNetDetector().detect(two_faces)
    true = np.array([face.eyes for face in detect(two_faces)])
    assert len(matched(faces, true)) == len(faces) == 2


def test_a_face_that_fills_the_image_and_one_that_is_huge_are_found(shared_data: Path) -> None:
    astronaut = read_image(shared_data / "photos" / "astronaut.png")
    (face,) = detect(astronaut)
    assert face.box[0] < face.eyes[0][0] < face.eyes[1][0] < face.box[0] + face.box[2]
    x, y, width, height = (round(value) for value in face.box)
    close = astronaut[y : y + height, x : x + width]
    for scale in (1, 15):
        (found,) = detect(cv2.resize(close, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
        expected = (np.array(face.eyes) - (x, y) + 0.5) * scale - 0.5
        distance = np.linalg.norm(expected[1] - expected[0])
        assert np.linalg.norm(np.array(found.eyes) - expected, axis=1).max() < 0.06 * distance


def test_a_face_cut_on_all_sides_is_found(photos: list[Photo]) -> None:
    """A tenth of the face's box is missing at each side; in 2 of 15 nothing was found."""
    cut = 0
    for photo in photos:
        for face in detect(photo.image):
            x, y, width, height = face.box
            close = photo.image[int(y + 0.1 * height) : int(y + 0.9 * height), int(x + 0.1 * width) : int(x + 0.9 * width)]
            if width >= 50 and y + height <= len(photo.image) and cut < 15:
                cut += 1
                found = detect(np.ascontiguousarray(close))
                expected = np.array(face.eyes) - (int(x + 0.1 * width), int(y + 0.1 * height))
                assert len(matched(found, expected[None])) == 1
    assert cut == 15


def test_a_mirrored_photo_has_mirrored_eyes(two_faces: np.ndarray) -> None:
    true = np.array([face.eyes for face in detect(two_faces)])
    photo = mirrored(Photo("", two_faces, true))
    pairs = matched(detect(photo.image), photo.eyes)
    assert len(pairs) == len(true) == 2
    for face, eyes in pairs:
        assert np.linalg.norm(np.array(face.eyes) - eyes, axis=1).max() < 0.06 * np.linalg.norm(eyes[1] - eyes[0])


def test_the_same_image_gives_the_same_faces_in_threads_and_in_grey_of_either_shape(two_faces: np.ndarray) -> None:
    grey = np.ascontiguousarray(two_faces[..., 1])
    assert detect(grey) == detect(grey[..., None]) == detect(np.repeat(grey[..., None], 3, axis=2))
    expected = detect(two_faces)
    found: list[list[Face]] = []
    threads = [threading.Thread(target=lambda: found.append(detect(two_faces))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_the_square_of_the_mesh_maps_its_centre_and_corner() -> None:
    square = upright_square(np.array([50.0, 40.0]), 64, np.array([30.0, 40.0]), np.array([70.0, 40.0]))
    assert square == Square(50, 40, 96, 0)
    matrix = square.matrix()
    assert matrix @ [50, 40, 1] == pytest.approx([(SIDE - 1) / 2] * 2)
    assert matrix @ [50 + 48, 40 + 48, 1] == pytest.approx([(SIDE - 1) / 2 + SIDE / 2] * 2)
    turned = Square(50, 40, 96, np.pi / 2).matrix()
    assert turned @ [50, 41, 1] == pytest.approx([(SIDE - 1) / 2 + 2, (SIDE - 1) / 2])


def test_a_square_stands_for_another_that_hardly_differs() -> None:
    square = Square(50, 40, 100, 0.1)
    for near in (Square(53, 43, 100, 0.1), square.zoomed(1.08), Square(50, 40, 100, 0.1 + np.radians(4) - 2 * np.pi)):
        assert near.near(square)
    for far in (Square(54, 44, 100, 0.1), square.zoomed(1.12), square.zoomed(0.88), Square(50, 40, 100, 0.1 + np.radians(6))):
        assert not far.near(square)


def test_a_first_look_that_was_upright_is_not_repeated(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    astronaut = read_image(shared_data / "photos" / "astronaut.png")
    mesh: FaceMesh = get_detector("blazeface").mesh  # type: ignore[attr-defined]
    fit, counts = mesh.fit, list[int]()

    def counted(image: np.ndarray, squares: list[Square]) -> list[tuple[np.ndarray, float]]:
        counts.append(len(squares))
        return fit(image, squares)

    monkeypatch.setattr(mesh, "fit", counted)
    ((points, _),) = fit(
        astronaut, [upright_square(np.array([224.0, 125.0]), 100, np.array([203.0, 101.0]), np.array([246.0, 104.0]))]
    )
    upright = square_of_points(points)
    assert upright.near(square_of_points(fit(astronaut, [upright])[0][0]))
    turned = Square(upright.x, upright.y, upright.side, upright.angle + 0.3)
    straight, beside = mesh.place(astronaut, [upright, turned])
    assert counts == [2, 3]
    apart = np.linalg.norm(eye_centres(straight[0]) - eye_centres(beside[0]), axis=1)
    assert apart.max() < 0.05 * np.linalg.norm(np.subtract(*eye_centres(straight[0])))
    assert mesh.place(astronaut, []) == []


def test_an_image_longer_than_opencv_warps_is_searched(shared_data: Path) -> None:
    astronaut = read_image(shared_data / "photos" / "astronaut.png")
    long = np.zeros((len(astronaut), 33_000, 3), np.uint8)
    long[:, -512:] = astronaut
    square = upright_square(np.array([32_712.5, 125.0]), 100, np.array([32_691.0, 101.0]), np.array([32_734.0, 104.0]))
    ((points, presence),) = get_detector("blazeface").mesh.fit(long, [square])  # type: ignore[attr-defined]
    assert presence > 0.9
    (face,) = detect(astronaut)
    assert np.abs(eye_centres(points) - (32_488, 0) - face.eyes).max() < 4
    assert isinstance(detect(long), list)
