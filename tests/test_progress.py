"""Bars where somebody watches, and nothing of them in logs and pipes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from emotiw_keras import progress, talk
from emotiw_keras.cli.console import put, remark, tell, warn
from emotiw_keras.progress import Bar, watched
from emotiw_keras.talk import Notice

ROOT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; not as a fixture, after which pytest puts its own stream in place."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_bar_counts_on_a_terminal_and_goes_when_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    bar = Bar("images")
    bar.to(64, 200, "one epoch 1/2", "loss 0.500")
    first = terminal.getvalue()
    assert "one epoch 1/2:  32%" in first and "64/200" in first and "loss 0.500" in first
    bar.to(200, 200)
    assert terminal.getvalue().endswith("\r") and terminal.getvalue().split("\r")[-2].strip() == "", "the line is empty again"
    assert "\n" not in terminal.getvalue()


def test_megabytes_and_an_unknown_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    bar = Bar("B")
    bar.to(12_300_000)
    assert "12.3MB" in terminal.getvalue()
    bar.close()


def test_where_nobody_watches_nothing_is_drawn_and_tqdm_is_not_imported() -> None:
    steps = "bar = Bar('images')\nbar.to(1, 2)\nbar.to(2, 2)\nprint('tqdm' in sys.modules)"
    code = f"import sys\nfrom emotiw_keras.progress import Bar\n{steps}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_notebook_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not watched()
    for config, seen in (({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)):
        shell = types.SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert watched() is seen
        assert Bar("images").seen is seen


@pytest.mark.parametrize("size", ["rows 0 columns 0", "rows 30 columns 60"])
def test_a_terminal_without_a_known_width_has_a_bar_too(size: str) -> None:
    pty = pytest.importorskip("pty", reason="terminals of Unix")
    reader, writer = pty.openpty()
    subprocess.run(["stty", *size.split()], stdin=writer, check=True)
    code = "from emotiw_keras.progress import Bar\nBar('images').to(20, 100, 'one', 'loss 0.5')"
    subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=writer, check=True, cwd=ROOT)
    os.close(writer)
    drawn = os.read(reader, 10_000).decode()
    os.close(reader)
    assert "one:  20%" in drawn and "20/100" in drawn


def test_a_line_takes_the_bar_away_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    bar = Bar("images")
    for write in (tell, remark, warn, put):
        terminal.truncate(0)
        bar.to(bar._bar.n + 1 if bar._bar else 1, 100)
        write("a line")
        drawn = terminal.getvalue().split("a line")[0]
        assert drawn.split("\r")[-1] in ("", "emotiw: "), f"{write.__name__} begins an empty line"
    bar.close()
    assert progress._drawn is None


def test_quiet_keeps_notices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(talk, "quiet", True)
    assert not Bar("images").seen
    tell("narration")
    remark("narration")
    tell(Notice("left out: 3"))
    remark(Notice("left out: 4"))
    warn("left out: 5")
    assert terminal.getvalue() == "left out: 3\nemotiw: left out: 4\nleft out: 5\n"


def test_a_bar_that_an_error_lost_leaves_its_line_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    Bar("images").to(1, 10)
    bar = Bar("faces")
    bar.to(1, 10)
    assert "\n" not in terminal.getvalue() and "1/10" in terminal.getvalue().split("\r")[-1]
    bar.close()


def test_no_process_or_thread_comes_with_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    a_terminal(monkeypatch)
    before = threading.active_count()
    bar = Bar("images")
    bar.to(1, 10)
    assert threading.active_count() == before
    bar.close()
