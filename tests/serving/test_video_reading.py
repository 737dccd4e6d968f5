"""Videos by whatever name and of whatever clock: names that are no UTF-8, playlists, trims, odd pixels, uneven time stamps."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.data import video_files
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.interlaced import says_interlaced
from emotiw_keras.data.stated_sizes import counts_frames, ends_in_zeros, missing_bytes
from emotiw_keras.data.video_files import VideoReader, sample_frames
from emotiw_keras.serving import annotate
from emotiw_keras.serving.annotate import Annotator
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.readings import ImageReading
from tests.serving.marked import frames_of, write_video

# Names that FFmpeg would take for a protocol, or Python cannot write as UTF-8.
ODD_NAMES = ["12:30:05.mp4", "file:a.mp4", os.fsdecode(b"bad\xfe.mp4"), os.fsdecode(b"f\xfe/a.mp4"), "a%03d b?.mp4"]


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    write_video(tmp_path / "made.mp4", frames_of(20), rate=10)
    return (tmp_path / "made.mp4").read_bytes()


def patched(data: bytes, box: bytes, offset: int, form: str, *values: int) -> bytes:
    """A video with other numbers at a place of one of its boxes, counted from behind the box's name."""
    start = data.index(box) + 4 + offset
    return data[:start] + struct.pack(form, *values) + data[start + struct.calcsize(form) :]


def save(name: str, data: bytes) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(data)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_video_is_read_and_annotated_whatever_it_is_called(predict: Callable, clip: bytes, name: str) -> None:
    try:
        save(name, clip)
    except (OSError, UnicodeEncodeError) as error:
        pytest.skip(f"no such name here: {error}")
    done = predict(name, "--annotate", "seen")
    assert done.code == 0, done.err
    assert [(row["frame"], row["seconds"]) for row in done.rows] == [(i, pytest.approx(i / 10)) for i in range(20)]
    assert [number for number, _ in sample_frames(Path(name), 2)] == [5, 15]
    (copy,) = (path for path in Path("seen").rglob("*") if path.is_file())
    assert copy.name == os.path.basename(name)
    with VideoReader(copy) as video:
        assert video.promised == 20


def test_an_annotated_video_goes_into_a_folder_of_any_name(predict: Callable, clip: bytes) -> None:
    save("a.mp4", clip)
    for folder in ("data:video", os.fsdecode(b"seen\xff")):
        assert predict("a.mp4", "--annotate", folder).code == 0
        assert os.listdir(folder) == ["a.mp4"]


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_playlist_that_calls_itself_a_video_opens_no_other_file(tmp_path: Path, clip: bytes, text: str) -> None:
    (tmp_path / "list.mp4").write_text(text.format("made.mp4"))
    with pytest.raises(ImageError, match="cannot open"):
        VideoReader(tmp_path / "list.mp4")
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ
    # The caller's own videos are opened as they were.
    assert cv2.VideoCapture(str(tmp_path / "made.mp4"), cv2.CAP_FFMPEG).isOpened()


def test_a_trimmed_video_is_whole_and_sampled_evenly(predict: Callable, tmp_path: Path, clip: bytes) -> None:
    # 1.2 of 2 seconds: the edit list's duration is in milliseconds.
    trimmed = patched(clip, b"elst", 8, ">i", 1200)
    save("trimmed.mp4", trimmed)
    done = predict("trimmed.mp4")
    assert done.code == 0 and [row["frame"] for row in done.rows] == list(range(12))
    assert [number for number, _ in sample_frames(Path("trimmed.mp4"), 3)] == [2, 6, 10]
    # Its table holds six frames: it ends before what is to be played.
    lost = patched(trimmed, b"stsz", 8, ">I", 6)
    save("lost.mp4", lost)
    cut = predict("lost.mp4")
    assert cut.code == 3 and "cut or damaged" in cut.err


def test_frames_lost_in_the_middle_are_said(predict: Callable, tmp_path: Path, clip: bytes) -> None:
    sizes = struct.unpack_from(">20I", clip, clip.index(b"stsz") + 4 + 12)
    (first,) = struct.unpack_from(">I", clip, clip.index(b"stco") + 4 + 8)
    start, stop = first + sum(sizes[:8]), first + sum(sizes[:11])
    damaged = clip[:start] + bytes(stop - start) + clip[stop:]
    save("damaged.mp4", damaged)
    done = predict("damaged.mp4")
    assert done.code == 3 and "3 of 20 frames cannot be decoded; the video is damaged" in done.err
    assert [row["frame"] for row in done.rows] == [*range(8), *range(11, 21)]
    assert done.rows[8]["seconds"] == pytest.approx(1.1) and done.rows[-1]["error"]
    sampled = sample_frames(Path("damaged.mp4"), 10)
    assert [next(sampled)[0] for _ in range(9)] == [1, 3, 5, 7, 11, 13, 15, 17, 19]
    with pytest.raises(ImageError, match="3 of 20 frames cannot be decoded"):
        next(sampled)


def test_wide_pixels_are_shown_square(tmp_path: Path, clip: bytes) -> None:
    # The track's width is 640, twice that of its frames.
    (tmp_path / "wide.mp4").write_bytes(patched(clip, b"tkhd", 76, ">I", 640 << 16))
    with VideoReader(tmp_path / "wide.mp4") as video:
        assert video.grab() and video.frame().shape == (240, 640, 3)
    with VideoReader(clip) as video:
        assert video.grab() and video.frame().shape == (240, 320, 3)
    assert [number for number, _ in sample_frames(clip, 2)] == [5, 15], "bytes, as of a video in a zip"


def box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


FIXED = 1 << 16
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "mirrored": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "upside down in a mirror": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "turned round": ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
    "to the left": ((0, 1, -1, 0), np.rot90),
    "to the right": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 3)),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    "transposed and turned round": ((0, -1, -1, 0), lambda frame: frame.swapaxes(0, 1)[::-1, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("header", [b"tkhd", b"mvhd"])
def test_frames_are_shown_as_the_matrix_of_the_film_or_its_track_says(tmp_path: Path, turn: str, header: bytes) -> None:
    (a, b, c, d), stored = TURNS[turn]
    upright = frames_of(1)[0]
    write_video(tmp_path / "made.mp4", [np.ascontiguousarray(stored(upright))] * 3)
    place = {b"tkhd": 40, b"mvhd": 36}[header]
    data = patched(
        (tmp_path / "made.mp4").read_bytes(),
        header,
        place,
        ">9i",
        a * FIXED,
        b * FIXED,
        0,
        c * FIXED,
        d * FIXED,
        0,
        0,
        0,
        1 << 30,
    )
    with VideoReader(data) as video:
        assert video.grab()
        shown = video.frame()
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 4 < np.abs(shown.astype(int) - upright[:, ::-1]).mean()


def test_a_cover_image_is_not_taken_for_the_video(predict: Callable, clip: bytes) -> None:
    cover = cv2.imencode(".jpg", np.zeros((500, 400, 3), np.uint8))[1].tobytes()
    item = box(b"covr", box(b"data", struct.pack(">II", 13, 0), cover))
    meta = box(b"meta", bytes(4), box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9)), box(b"ilst", item))
    moov, header = (clip.index(kind) - 4 for kind in (b"moov", b"mvhd"))
    behind = header + struct.unpack_from(">I", clip, header)[0]
    added = box(b"udta", meta)
    size = struct.pack(">I", struct.unpack_from(">I", clip, moov)[0] + len(added))
    save("cover.mp4", clip[:moov] + size + clip[moov + 4 : behind] + added + clip[behind:])
    done = predict("cover.mp4")
    assert done.code == 0 and [row["frame"] for row in done.rows] == list(range(20))
    assert {row["face"] for row in done.rows} == {0}


def annotated(folder: Path, rate: float, times: list[float]) -> tuple[list[int], float, list[str]]:
    """What a copy shows of a film of so many frames at these times: each frame's number, its rate, and what is said of it."""
    images = [
        InputImage("clip", np.full((64, 64, 3), 40 * i, np.uint8), frame=i, name="clip.avi", seconds=time)
        for i, time in enumerate(times)
    ]
    video = Video("clip", "clip.avi", rate, iter(images))
    with Annotator(folder) as annotator:
        for image in images:
            annotator.write(ImageReading(image, video, (), None))
    with VideoReader(folder / "clip.avi") as copy:
        levels = []
        while copy.grab():
            levels.append(round(float(copy.frame().mean()) / 40))
    return levels, copy.rate, annotator.left_out


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([0.0, 0.1, 0.2, 1.2, 1.3], [0, 1, *[2] * 10, 3, 4]),
        ([0.0, 0.05, 0.1, 0.15, 0.2, 0.3], [0, 1, 3, 5]),
        ([0.0, 0.01, 0.02, 0.5, 0.6], [0, 1, *[2] * 3, 3, 4]),
        ([0.0, 0.15, 0.25, 0.35, 0.45], [0, 1, 2, 3, 4]),
        ([7.0, 7.1, 0.0, 0.1, 0.2], [0, 1, 2, 3, 4]),
    ],
    ids=["slow", "fast", "fast and slow", "half a frame late", "time stamps that begin anew"],
)
def test_uneven_time_stamps_keep_the_length_of_the_copy(tmp_path: Path, times: list[float], shown: list[int]) -> None:
    assert annotated(tmp_path / "seen", 10.0, times) == (shown, 10.0, [])


def test_few_frames_far_apart_are_not_written_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate, "LONGEST_HOLD", 1)
    monkeypatch.setattr(annotate, "MOST_COPIES", 5)
    shown, rate, (line,) = annotated(tmp_path / "seen", 1000.0, [60.0 * i for i in range(6)])
    assert rate == 60 and 60 < len(shown) <= 60 + 5 * 6 + 1 and sorted(set(shown)) == [*range(6)]
    assert f"the copy of clip is {300 - (len(shown) - 1) / 60:.1f} s shorter" in line


def interlaced(path: Path, frames: list[np.ndarray]) -> None:
    """Write an MPEG-2 film and say of it, and of each picture, that its lines were taken in two turns."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mpg2"), 25.0, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    data = bytearray(path.read_bytes())
    for found in re.finditer(rb"\x00\x00\x01\xb5([\x10-\x1f\x80-\x8f])", bytes(data)):
        start = found.start() + 4
        if data[start] >> 4 == 1:  # the sequence: progressive_sequence
            data[start + 1] &= ~0x08 & 0xFF
        else:  # a picture: chroma_420_type, progressive_frame
            data[start + 3] &= ~0x01 & 0xFF
            data[start + 4] &= ~0x80 & 0xFF
    path.write_bytes(data)


def test_interlaced_frames_are_shown_as_they_are(predict: Callable, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    shown = frames_of(12)
    interlaced(tmp_path / "dvd.mkv", shown)
    done = predict("dvd.mkv")
    assert done.code == 0 and [row["face"] for row in done.rows] == [0] * 12, done.err
    with VideoReader("dvd.mkv") as video:
        for frame in shown:
            assert video.grab() and np.abs(video.frame().astype(int) - frame).mean() < 12
    for count, places in ((1, [6]), (3, [2, 6, 10]), (20, [*range(12)])):
        for source in (Path("dvd.mkv"), Path("dvd.mkv").read_bytes()):
            found = list(sample_frames(source, count))
            assert [number for number, _ in found] == places
            assert all(np.abs(pixels.astype(int) - shown[number]).mean() < 12 for number, pixels in found)


def test_interlaced_films_are_refused_where_nothing_can_show_them(
    predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interlaced(tmp_path / "dvd.mkv", frames_of(4))
    if not says_interlaced(tmp_path / "dvd.mkv", 2):
        pytest.skip("this OpenCV can show them")
    monkeypatch.setitem(sys.modules, "av", None)
    done = predict("dvd.mkv")
    (row,) = done.rows
    assert done.code == 3 and "its frames are interlaced, which OpenCV" in row["error"]
    assert "emotiw-keras[interlaced]" in done.err and "bwdif" in done.err
    with pytest.raises(ImageError, match="interlaced"):
        list(sample_frames(Path("dvd.mkv"), 2))


def test_who_reads_a_film_runs_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    interlaced(tmp_path / "dvd.mkv", frames_of(4))
    for name in ("numpy", "cv2", "av", "emotiw_keras"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise ImportError")
    code = "from emotiw_keras.data.interlaced import says_interlaced; says_interlaced('dvd.mkv', 2)"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()


def still(path: Path, frame: np.ndarray, count: int) -> None:
    """A film of one picture, each frame by itself, so that all are equal to the bit."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, frame.shape[1::-1])
    for _ in range(count):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def test_a_film_that_stands_still_is_read(predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still(tmp_path / "still.avi", frames_of(1)[0], 6)
    asked = []
    monkeypatch.setattr(video_files, "says_interlaced", lambda *given: (asked.append(given[1]), says_interlaced(*given))[1])
    done = predict("still.avi")
    assert done.code == 0 and [row["face"] for row in done.rows] == [0] * 6
    assert len(asked) == 1, "asked once"


def longer(path: Path, seconds: float) -> None:
    """A Matroska file that says it lasts so long, as one with sound behind its last picture does."""
    data = path.read_bytes()
    place = data.index(b"\x44\x89\x88") + 3  # Duration, a double in milliseconds
    path.write_bytes(data[:place] + struct.pack(">d", 1000 * seconds) + data[place + 8 :])


@pytest.mark.parametrize("name", ["film.mkv", "film.webm"])
def test_sound_that_is_longer_than_the_picture_is_no_loss(predict: Callable, tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "film.mkv", frames_of(20), rate=10)
    longer(tmp_path / "film.mkv", 6.0)
    (tmp_path / "film.mkv").rename(tmp_path / name)
    with VideoReader(tmp_path / name) as video:
        assert video.promised > 50 and not video.counted
    done = predict(name)
    assert done.code == 0 and len(done.rows) == 20, done.err
    assert [number for number, _ in sample_frames(Path(name), 4)] == [2, 7, 12, 17]


def test_a_matroska_file_that_is_cut_says_so(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "film.mkv", frames_of(30), rate=10)
    data = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "film.mkv").write_bytes(data[: 2 * len(data) // 3])
    done = predict("film.mkv")
    assert done.code == 3 and "before its file says that it does; the video is cut or damaged" in done.err
    assert 5 < sum(row["error"] is None for row in done.rows) < 30
    with pytest.raises(ImageError, match="cut or damaged"):
        list(sample_frames(Path("film.mkv"), 2))


@pytest.mark.parametrize("name", ["film.webm", "film.mkv", "film.ts", "film.mpg", "film.flv", "film.wmv"])
def test_a_film_whose_end_is_zeros_says_so(predict: Callable, tmp_path: Path, name: str) -> None:
    codec = {"film.mpg": "mpg2", "film.flv": "FLV1", "film.wmv": "WMV2", "film.webm": "VP80"}.get(name, "mp4v")
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (320, 240))
    for frame in frames_of(60):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    data = (tmp_path / name).read_bytes()
    assert not ends_in_zeros(io.BytesIO(data))
    (tmp_path / name).write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    done = predict(name)
    read = sum(row["error"] is None for row in done.rows)
    assert done.code == 3 and 5 < read < 60 and f"ends after {read} frames, behind which its file holds zeros" in done.err
    with pytest.raises(ImageError, match="cut or damaged"):
        list(sample_frames(Path(name), 2))


def test_free_space_at_the_end_of_a_film_is_no_loss(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "film.mkv", frames_of(20), rate=10)
    data = bytearray((tmp_path / "film.mkv").read_bytes())
    place = data.index(b"\x18\x53\x80\x67\x01") + 4
    void = b"\xec\x01" + (70_000).to_bytes(7) + bytes(70_000)
    stated = int.from_bytes(data[place + 1 : place + 8]) + len(void)
    data[place + 1 : place + 8] = stated.to_bytes(7)
    (tmp_path / "film.mkv").write_bytes(data + void)
    done = predict("film.mkv")
    assert done.code == 0 and len(done.rows) == 20, done.err
    (tmp_path / "film.mkv").write_bytes(data + bytes(len(void)))  # what the download did not reach
    done = predict("film.mkv")
    assert done.code == 3 and "behind which its file holds zeros" in done.err


def test_only_free_space_that_ends_the_file_is_no_hole() -> None:
    zeros, unknown = bytes(70_000), b"\x01" + b"\xff" * 7
    start = b"\x1a\x45\xdf\xa3\x83abc" + b"\x18\x53\x80\x67" + unknown
    void, cluster = b"\xec" + b"\x21\x11\x70", b"\x1f\x43\xb6\x75"
    boxes, size = b"\0\0\0\x08ftyp\0\0\0\x09moof.", struct.pack(">I", 70_008)
    for whole in (
        start + void + zeros,
        start + cluster + b"\x83abc" + b"\xec\x82\0\0" + void + zeros,
        start + cluster + unknown + b"\xa3\x81." + void + zeros,
        boxes + size + b"free" + zeros,
        boxes + b"\0\0\0\0skip" + zeros,
    ):
        assert not ends_in_zeros(io.BytesIO(whole))
    for cut in (
        start + zeros,
        start + cluster + b"\x21\x11\x70" + zeros,
        start + b"\xec\x82\0\0" + zeros,
        start + void[:-1] + zeros,
        start[8:] + void + zeros,
        boxes + zeros,
        boxes + size + b"mdat" + zeros,
    ):
        assert ends_in_zeros(io.BytesIO(cut))


def test_few_zeros_at_the_end_are_no_sign() -> None:
    for size, zeros in ((10_000, 4096), (100_000, 12_500), (10_000_000, 65_536)):
        for found, count in ((True, zeros), (False, zeros - 1)):
            assert ends_in_zeros(io.BytesIO(b"1" * (size - count) + bytes(count))) is found
    assert not ends_in_zeros(io.BytesIO(bytes(100)))


def test_what_files_state_of_their_size() -> None:
    def missing(data: bytes) -> bool:
        return missing_bytes(io.BytesIO(data))

    head, segment = b"\x1a\x45\xdf\xa3\x83abc", b"\x18\x53\x80\x67"
    assert not missing(head + segment + b"\x84" + b"data") and missing(head + segment + b"\x84" + b"dat")
    assert missing(head + segment + b"\x40\x05" + b"data") and not missing(head + segment + b"\x01" + b"\xff" * 7 + b"data")
    assert (
        not missing(head) and not missing(head + segment) and not missing(head + b"\x12\x34\x56\x78\x99") and not missing(b"")
    )
    asf = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(14)
    facts = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + struct.pack("<Q16sQ", 104, b"", 80)
    assert len(asf + facts) == 78 and missing(asf + facts + b".") and not missing(asf + facts + b"..") and not missing(asf)
    assert counts_frames(io.BytesIO(b"RIFF0000AVI LIST")) and not counts_frames(io.BytesIO(b"RIFF0000WAVE"))


def test_a_short_film_of_which_half_is_gone_says_so(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "whole.avi", frames_of(12), rate=60)
    data = (tmp_path / "whole.avi").read_bytes()
    Path("whole.avi").write_bytes(data)
    Path("cut.avi").write_bytes(data[: len(data) * 45 // 100])
    assert predict("whole.avi").code == 0
    cut = predict("cut.avi")
    assert cut.code == 3 and "12 were promised; the video is cut or damaged" in cut.err


def test_a_film_that_counts_what_only_lasts_longer_is_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "film.avi", frames_of(25), rate=25)
    with VideoReader(tmp_path / "film.avi") as video:
        while video.grab():
            pass
        video.promised, video.seconds = 100, 3.96  # as of 100 places for pictures of which 25 are new, the last at the end
        assert video.counted and video.lost() is None
        video.seconds = 3.8
        assert "100 were promised" in str(video.lost())


def test_films_without_a_clock_are_told_by_their_rate(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "slow.avi", frames_of(4), rate=10)
    data = (tmp_path / "slow.avi").read_bytes()
    place = data.index(b"vids") + 4 + 16  # scale and rate of the stream
    (tmp_path / "slow.avi").write_bytes(data[:place] + struct.pack("<II", 2**31 - 1, 1) + data[place + 8 :])
    done = predict("slow.avi")
    assert [row["seconds"] for row in done.rows] == [pytest.approx(number / 25) for number in range(4)]


def test_a_film_that_no_encoder_takes_has_no_copy_and_the_others_do(predict: Callable, tmp_path: Path) -> None:
    wide = np.zeros((64, 8200, 3), np.uint8)
    writer = cv2.VideoWriter(str(tmp_path / "a.mkv"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (8200, 64))
    for _ in range(2):
        writer.write(wide)
    writer.release()
    write_video(tmp_path / "b.mp4", frames_of(3))
    done = predict("a.mkv", "b.mp4", "--annotate", "seen")
    assert done.code == 3 and len(done.rows) == 5
    assert "emotiw: no copy of a.mkv: no encoder for 8200 x 64 pixels at 25 frames a second" in done.err
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["b.mp4"]
