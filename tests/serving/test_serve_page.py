"""The page of `emotiw serve` in a real browser: uploads, drops, pastes and the camera, on a desk and on a phone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Browser, Page, browser, find_browser
from tests.serving.services import Service, encoded, photo, service

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (apt-get install chromium)")
WIDTHS = (1280, 390)
HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.png"
# What is wider than the page, or cut by what holds it; pictures clip their labels' empty edges alone.
CUT = """[...document.querySelectorAll('main *')].filter(e => { const r = e.getBoundingClientRect();
  return r.width && (r.right > innerWidth + 0.5 || r.left < -0.5
    || (e.matches('.picture .box span') && (() => { const s = e.closest('.picture').getBoundingClientRect();
      return r.left < s.left - 0.5 || r.right > s.right + 0.5 || r.top < s.top - 0.5 || r.bottom > s.bottom + 0.5; })())); })
  .map(e => e.outerHTML.slice(0, 200))"""
PUT = """(async (event, files) => {
  const data = new DataTransfer();
  for (const [name, text] of files)
    data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, {type: 'image/png'}));
  if (event === 'choose') {
    document.getElementById('files').files = data.files;
    document.getElementById('files').dispatchEvent(new Event('change'));
    return;
  }
  const kind = {dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true};
  document.body.dispatchEvent(event === 'drop' ? new DragEvent(event, kind) : new ClipboardEvent(event, kind));
})"""


@pytest.fixture(scope="module")
def served() -> Iterator[Service]:
    with service() as running:
        yield running


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn face that a camera might see: motion JPEG."""
    path = tmp_path_factory.mktemp("film") / "face.mjpeg"
    path.write_bytes(b"".join(encoded(photo(3, 640, 480), "JPEG") for _ in range(3)))
    return path


@pytest.fixture(scope="module")
def chromium(film: Path) -> Iterator[Browser]:
    assert PROGRAM is not None
    camera = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    )
    with browser(PROGRAM, *camera) as running:
        yield running


def opened(chromium: Browser, served: Service, width: int, dark: bool = False) -> Page:
    page = chromium.page()
    page.open(f"http://127.0.0.1:{served.port}/", width, dark)
    page.until("document.getElementById('about').textContent.includes('fer28-face-vgg-votes on opencv')")
    return page


def put(page: Page, how: str, files: dict[str, bytes]) -> None:
    told = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    page.value(f"{PUT}({json.dumps(how)}, {json.dumps(told)})")
    page.until(f"document.querySelectorAll('article').length >= {len(files)}")
    page.until("!document.querySelector('main').innerText.includes('Reading')")


def crowd() -> bytes:
    """Four faces, at the corners of a picture."""
    picture = np.full((600, 900, 3), 190, np.uint8)
    for top in (0, 330):
        for left in (0, 630):
            picture[top : top + 270, left : left + 270] = photo(3, 450, 450)[90:360, 75:345]
    return encoded(picture)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_photos_are_read_and_drawn(chromium: Browser, served: Service, how: str, width: int, tmp_path: Path) -> None:
    page = opened(chromium, served, width, dark=how == "drop")
    files = {"one.png": encoded(photo(3)), "four.png": crowd(), HOSTILE: b"no image", "wall.png": encoded(photo(3)[:40])}
    put(page, how, files)
    articles = page.value(
        "[...document.querySelectorAll('article')].map(a => [...['h2', 'p'].map(s => a.querySelector(s).textContent), "
        "...['.box', '.bar'].map(s => a.querySelectorAll(s).length)])"
    )
    not_an_image = "not an image in a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM, AVIF, HEIC)"
    assert articles == [
        ["one.png", "1 face", 1, 8],
        ["four.png", "4 faces", 4, 32],
        ["<img src=x onerror=alert(1)>\\u202egpj.png", not_an_image, 0, 0],
        ["wall.png", "no face found", 0, 0],
    ]
    row = served.predict(("one.png", files["one.png"])).json["rows"][0]
    label = f"{row['label']} {round(100 * row['probabilities'][row['label']])} %"
    assert page.value("document.querySelector('article:first-child .box span').textContent") == label
    box, image = page.value(
        "['.box', 'img'].map(s => document.querySelector('article:first-child ' + s).getBoundingClientRect())"
        ".map(r => [r.x, r.y, r.width, r.height])"
    )
    found = [(box[0] - image[0]) / image[2], (box[1] - image[1]) / image[3], box[2] / image[2], box[3] / image[3]]
    np.testing.assert_allclose(found, np.divide(row["box"], [320, 240, 320, 240]), atol=0.01)
    page.screenshot(tmp_path / f"{how}-{width}.png")
    assert page.value(CUT) == []
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.said == []
    assert {url for url in page.requests if not url.startswith((f"http://127.0.0.1:{served.port}/", "blob:", "data:"))} == set()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_camera_is_followed_and_let_go(chromium: Browser, served: Service, width: int, tmp_path: Path) -> None:
    page = opened(chromium, served, width)
    page.value("document.getElementById('start').click()")
    page.until("document.querySelectorAll('#stage .box').length === 1 && document.querySelectorAll('#seen .bar').length === 8")
    before = served.metric('emotiw_requests_total{path="/predict",status="200"}')
    page.until("document.getElementById('rate').textContent.endsWith('answers a second')")
    while served.metric('emotiw_requests_total{path="/predict",status="200"}') < before + 3:
        pass
    video = "document.getElementById('video')"
    box, stage = page.value(
        "['.box', 'video'].map(s => document.querySelector('#stage ' + s).getBoundingClientRect()).map(r => [r.x, r.width])"
    )
    # The face stands left of the middle of the film, and so at the right of a mirror.
    assert box[0] + box[1] / 2 > stage[0] + stage[1] / 2
    page.screenshot(tmp_path / f"camera-{width}.png")
    assert page.value(CUT) == [] and page.value("document.documentElement.scrollWidth") <= width
    page.value(f"window.track = {video}.srcObject.getTracks()[0]; 0")
    page.value("document.getElementById('stop').click()")
    assert page.value("window.track.readyState") == "ended"
    assert page.value(f"{video}.srcObject") is None and page.value("document.getElementById('camera').hidden")
    assert page.said == []


def test_what_is_too_large_is_told(chromium: Browser, served: Service) -> None:
    page = opened(chromium, served, 390)
    page.value("readPhotos([new File([new Uint8Array(70 << 20)], 'large.png', {type: 'image/png'})]); 0")
    page.until("document.querySelector('article p.error')?.textContent.includes('a picture may have 33,554,432')")


@pytest.mark.parametrize("lost", ["folder", "file"])
def test_what_cannot_be_read_is_not_the_programs_fault(chromium: Browser, served: Service, lost: str, tmp_path: Path) -> None:
    page, place = opened(chromium, served, 390), tmp_path / "mine"
    place.mkdir() if lost == "folder" else place.write_bytes(encoded(photo()))
    chosen = page.call("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
    page.value("window.hold = readPhotos; readPhotos = (files) => (window.held = files); 0")
    page.call("DOM.setFileInputFiles", files=[str(place)], objectId=chosen)
    page.until("window.held?.length === 1")
    if lost == "file":
        place.unlink()
    page.value("hold(held); 0")
    page.until("document.querySelector('article p.error')?.textContent.includes('a folder, whose photos can be chosen')")


def test_without_scripts_it_says_so(chromium: Browser, served: Service) -> None:
    page = chromium.page()
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(f"http://127.0.0.1:{served.port}/", 390)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "This page needs JavaScript" in page.value("document.body.innerText")


def test_the_notice_on_lawful_use_stands_on_the_page(chromium: Browser, served: Service) -> None:
    page = opened(chromium, served, 390)
    text = page.value("document.body.innerText")
    assert "Article 5(1)(f)" in text and "workplaces" in text and "schools" in text
    assert "runs on this machine: nothing leaves it" in text


def test_a_script_in_the_page_is_not_run(chromium: Browser, served: Service) -> None:
    page = opened(chromium, served, 390)
    page.value("document.body.insertAdjacentHTML('beforeend', '<img src=nothing onerror=\"window.run = 1\">'); 0")
    page.value("{ const s = document.createElement('script'); s.textContent = 'window.run = 1'; document.body.append(s); } 0")
    page.value("fetch('http://127.0.0.1:9/').catch(() => 0).then(() => 0)")
    assert page.value("window.run === undefined")
    assert sum("Content Security Policy" in said for said in page.said) >= 3
