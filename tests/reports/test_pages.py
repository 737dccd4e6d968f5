"""The pages in a real browser: complete, silent, without a request, as wide as the window, in light and dark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.audit.faces import CONDITIONS, LABELS, AuditFaces
from emotiw_keras.audit.figures import of_answers, of_humans, share
from emotiw_keras.bulk.summary import Film, Summary
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces
from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.compare import compare
from emotiw_keras.evaluation.ensemble import ensemble
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.html import image_tag, page, shaded, table, tag
from emotiw_keras.reports.audit_page import audit_page, audit_text
from emotiw_keras.reports.bulk_page import summary_page
from emotiw_keras.reports.comparison_page import comparison_page
from emotiw_keras.reports.evaluation_report import report_page
from emotiw_keras.reports.only_right import only_right_section
from emotiw_keras.reports.study_page import study_page
from emotiw_keras.runs import Run
from emotiw_keras.studies.staged import Row
from emotiw_keras.studies.staged_arms import PARTS, Net, arms_of
from tests.browser import Browser, browser, find_browser

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (apt-get install chromium)")
# Channels of a colour "rgb(r, g, b)" to relative luminance (WCAG 2.2), and the contrast of text and ground.
CONTRAST = """(() => { const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => { v /= 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const style = getComputedStyle(document.body), a = light(style.color), b = light(style.backgroundColor);
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), b]; })()"""
# Charts must draw all of their shapes side by side: an unclosed one swallows those after it, which are then not drawn.
NESTED = "[...document.querySelectorAll('svg :is(line, rect, circle, polyline, text)')].filter(e => e.firstElementChild).length"
# Tables that must be scrolled to be seen whole, and words of charts that stand out of them.
CUT = """[...document.querySelectorAll('figure.table .scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.ariaLabel}: ${e.scrollWidth} in ${e.clientWidth}`)
  .concat([...document.querySelectorAll('svg text')].filter(e => { const t = e.getBoundingClientRect(),
    s = e.ownerSVGElement.getBoundingClientRect(); return t.left < s.left - 1 || t.right > s.right + 1; })
  .map(e => e.textContent))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert PROGRAM is not None
    with browser(PROGRAM) as running:
        yield running


def an_audit() -> dict[str, Any]:
    """What `emotiw audit` finds for a reader that was asked, one with a long name and one that failed."""
    generator = np.random.default_rng(0)
    votes = generator.multinomial(10, np.full(10, 0.1), size=70)
    faces = AuditFaces(
        "fer", np.zeros((70, 48, 48), np.uint8), np.arange(70) % 7, np.arange(70) < 9, np.arange(70) < 20, votes, {}, True, ()
    )
    answers = generator.dirichlet(np.ones(7), 70)
    figures = of_answers(answers, LABELS, faces) | {"robust": dict.fromkeys(CONDITIONS, share(np.arange(70) % 7 == 0))}
    facts = {"labels": list(LABELS), "how": "its network alone, one face at a time", "trained_on": "Training", "bytes": 5}
    rows = [{"name": name, **facts, "selected_on": "unknown", **figures} for name in ("ours", "a-reader-of-a-long-name" * 3)]
    rows.append({"name": "lost", "trained_on": "unknown", "selected_on": "unknown", "error": "ended with exit code 3"})
    of_faces = {"all": 70, "twins": 9, "near_twins": 11, "with_votes": 70, "with_a_majority": 12, "agreed": 3}
    data = {"source": "fer", "split": "test", "limited": True, "faces": of_faces}
    return {"version": "1", "data": data, "conditions": CONDITIONS, "humans": of_humans(faces), "models": rows}


def test_an_audit_is_a_table_of_markdown() -> None:
    text = audit_text(an_audit())
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 5 and text.count("## ") == 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
    assert "| lost " in text and "could not be asked: ended with exit code 3" in text
    assert "14.3 % (" in text  # noise: ten of seventy
    strange = an_audit()
    strange["models"][0]["name"] = "<img src=x>|"
    assert "| \\<img src=x\\>\\| " in audit_text(strange) and "<img" not in audit_text(strange).replace("\\<img", "")
    # What is escaped already is not set free by it; no image is fetched.
    strange["models"][0]["name"] = "\\|\\<b>![seen](http://x/y.png)\r\u2028a"
    assert "| \\\\\\|\\\\\\<b\\>!\\[seen\\](http://x/y.png) a " in audit_text(strange)


def a_study(faces: FaceSet) -> str:
    """The page of a study whose networks guess, every part of it."""
    generator, (n, classes) = np.random.default_rng(0), (70, len(faces.labels))
    names, truth = [f"{i}.png" for i in range(n)], np.arange(n) % classes
    rows = []
    for arm in arms_of(Net("squeezenet", "weights.npz"), (0,), 1, PARTS):
        answers = generator.dirichlet(np.ones(classes), n).astype(np.float32)
        rows.append(Row(arm, {0: Predictions(tuple(faces.labels), names, ["ok"] * n, truth, answers)}, 0.2, 1.0, 1234))
    command = "emotiw staged-study " + "long/" * 80
    return study_page(rows, {"fer": faces}, {"direct": f'name = "{"long" * 100}"'}, command)


def a_summary() -> Summary:
    """What many photos and a film gave."""
    found = Summary("predict", {"inputs": 12_345_678, "images": 12_345_000, "faces": 99}, Counter({"happy": 5, "neutral": 4}))
    found.failures = Counter({"no such file or folder: " + "deep/" * 40: 3})
    found.films, found.film_count = [Film("deep/" * 30 + "a.mp4", spans=[Counter(found.labels)] * 9)], 4
    return found


@pytest.fixture(scope="module")
def pages(side_by_side: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """The pages, and how many images each has."""
    folder = tmp_path_factory.mktemp("pages")
    history = "stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy\ns,1,0.1,2,0.2,1.9,0.3\ns,2,0.1,1.5,0.4,,\n"
    (side_by_side / "one" / "history.csv").write_text(history)
    (side_by_side / "one" / "recipe.toml").write_text(f'name = "{"long" * 100}"\n')
    both = [assess(Run.open(side_by_side / name), side_by_side / "faces") for name in ("one", "two")]
    texts = {
        "report": report_page(both[0]),
        "ensemble": report_page(ensemble(both)),
    }
    faces = only_right_section(both, ["one", "a-run-of-a-long-name" * 4])
    texts["compare"] = comparison_page(compare(both), "faces/" + "deep/" * 60, "emotiw compare " + "long/" * 80, faces)
    texts["study"] = a_study(load_faces("generated:small", limit=20))
    texts["summary"] = summary_page(a_summary(), "s3://" + "deep/" * 40)
    texts["audit"] = audit_page(an_audit(), "emotiw audit " + "long/" * 80)
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: (folder / f"{name}.html", text.count("<img ")) for name, text in texts.items()}


@pytest.mark.parametrize("name", ["report", "ensemble", "compare", "audit", "study", "summary"])
def test_a_page_is_complete_silent_and_fits(
    chromium: Browser, pages: dict[str, tuple[Path, int]], name: str, tmp_path: Path
) -> None:
    path, images = pages[name]
    assert (images == 0) is (name in ("audit", "summary"))
    for width, dark in ((1280, False), (390, False), (390, True)):
        opened = chromium.page()
        opened.open(path, width, dark)
        assert opened.said == []
        assert [each for each in opened.requests if not each.startswith("data:")] == [path.as_uri()]
        assert opened.value("document.documentElement.scrollWidth") <= width
        assert opened.value("[...document.images].filter(each => !each.naturalWidth).length") == 0
        assert opened.value("document.images.length") == images
        assert opened.value(NESTED) == 0
        assert opened.value(CUT) == []
        contrast, ground = opened.value(CONTRAST)
        assert contrast > 7 and (ground < 0.1) is dark
    opened.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_a_wide_image_and_long_names_fit_a_phone(chromium: Browser, tmp_path: Path) -> None:
    wide = image_tag(np.zeros((20, 900, 1), np.uint8), "wide")
    names = table(["way", "accuracy"], [["a way with a name of many words that would fill the whole screen", "50 %"]], "ways")
    (tmp_path / "wide.html").write_text(page("wide", wide, names), "utf-8")
    opened = chromium.page()
    opened.open(tmp_path / "wide.html", 390)
    assert opened.value("document.documentElement.scrollWidth") <= 390
    assert opened.value("document.querySelector('tr:last-child > :last-child').getBoundingClientRect().right") <= 390


def test_a_matrix_of_long_names_or_many_classes_can_be_read(chromium: Browser, tmp_path: Path) -> None:
    long = ["happy", "unbroken" * 14, *(f"c{i}" for i in range(6))]
    for names, sides in ((long, {1280: 1184, 390: 366}), ([f"expression_number_{i:03d}" for i in range(100)], {1280: 3_000})):
        rows = [(f"{name} (6)", *(shaded(1, 0.5) for _ in names)) for name in names]
        matrix = table(["true class", *names], rows, "confusions", matrix=True)
        (tmp_path / "matrix.html").write_text(
            page("matrix", matrix, tag("pre", tag("code", "emotiw " + "long/" * 80))), "utf-8"
        )
        opened = chromium.page()
        for width, whole in sides.items():
            opened.open(tmp_path / "matrix.html", width)
            assert opened.value("document.querySelector('.scroll').scrollWidth") <= whole
            assert opened.value("document.querySelector('thead').offsetHeight") < 220
            assert opened.value("document.querySelector('tbody tr').offsetHeight") < 60
            assert opened.value("document.querySelectorAll('thead span')[1].title") == names[1]
    opened.open(tmp_path / "matrix.html", 718)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.value("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert opened.value("document.querySelector('pre').scrollWidth - document.querySelector('pre').clientWidth") == 0
    assert "upright" not in table(["true class", *"abcdefg"], [], "few", matrix=True)


def test_what_is_wrong_would_be_noticed(chromium: Browser, tmp_path: Path) -> None:
    """The checks above can fail: a page that shouts, asks for an image, and is too wide."""
    cut = table(["a", "b"], [["x", tag("td", tag("div", style="width: 2000px"))]], "cut")
    bad = page("bad", tag("div", style="width: 2000px; height: 1px"), tag("img", src="nowhere.png", alt=""), cut)
    bad = re.sub("<meta http-equiv.*?>", "<script>console.log('loud')</script>", bad)
    (tmp_path / "bad.html").write_text(bad)
    opened = chromium.page()
    opened.open(tmp_path / "bad.html", 390)
    assert "loud" in opened.said and len(opened.requests) == 2
    assert opened.value("document.documentElement.scrollWidth") > 390
    assert [line.split(":")[0] for line in opened.value(CUT)] == ["cut"]
    assert opened.value("[...document.images].filter(each => !each.naturalWidth).length") == 1
    guarded = page("guarded", tag("img", src="nowhere.png", alt=""))
    (tmp_path / "guarded.html").write_text(guarded)
    opened = chromium.page()
    opened.open(tmp_path / "guarded.html", 390)
    assert any("Content Security Policy" in line for line in opened.said), "the page's own policy refuses it"
