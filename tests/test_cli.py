"""The `emotiw` command: help, versions, errors as one line, signals."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

import emotiw_keras
from emotiw_keras import errors
from emotiw_keras.cli import main as cli_main
from emotiw_keras.training import interrupts
from tests.processes import default_signals

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]


def test_help_lists_every_command_and_each_has_help_with_an_example(emotiw: Emotiw) -> None:
    page = emotiw("--help")
    assert page.returncode == 0 and page.stderr == ""
    for name, (_, text) in cli_main.COMMANDS.items():
        assert f"{name} " in page.stdout and text in page.stdout
        own = emotiw(name, "--help")
        assert own.returncode == 0, own.stderr
        assert f"emotiw {name}" in own.stdout and "Example" in own.stdout, f"{name} --help shows no example"


def test_without_a_command_the_help_goes_to_stderr(emotiw: Emotiw) -> None:
    page = emotiw()
    assert page.returncode == 2 and page.stdout == "" and "Commands:" in page.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predct",), "did you mean 'predict'?"),
        (("zzz",), "the commands are fit, evaluate"),
        (("--nope",), "No such option"),
        (("predict",), "Missing argument"),
        (("predict", "a.png", "--batch-size", "0"), "--batch-size"),
        (("predict", "a.png", "--json", "--csv"), "cannot be combined"),
        (("predict", "a.png", "--faces", "whole", "--every", "2"), "--faces whole finds no faces"),
        (("predict", "a.mp4", "--smooth", "soon"), "seconds such as 0.5s"),
        (("export", "run", "out", "--format", "caffe"), "'tflite', 'onnx'"),
        (("recipes", "no-such-recipe"), "no-such-recipe"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(emotiw: Emotiw, arguments: tuple[str, ...], said: str) -> None:
    done = emotiw(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("emotiw: error: ")
    assert said in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there a folder in use cannot be removed")
@pytest.mark.parametrize("command", [("prepare", "PHOTO", "out"), ("predict", "PHOTO", "--out", "out")])
def test_a_working_folder_that_is_gone_is_one_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, gone = tmp_path / "photo.png", tmp_path / "gone"
    photo.write_bytes(b"")
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli_main.run([str(photo) if word == "PHOTO" else word for word in command]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "started in is gone" in said.err


def test_predict_with_a_model_that_is_not_there_names_those_that_are(emotiw: Emotiw) -> None:
    done = emotiw("predict", "face.png", "--model", "runs/none")
    assert done.returncode == 5
    assert done.stderr == (
        "emotiw: error: there is no run folder runs/none; expected the --out of `emotiw fit`, or one of fer28-face-vgg, "
        "fer28-face-vgg-votes\n"
    )


def test_version_names_what_a_bug_report_needs(emotiw: Emotiw) -> None:
    plain, data = emotiw("--version"), emotiw("--version", "--json")
    assert plain.stdout.startswith(f"emotiw_keras {emotiw_keras.__version__}\npython {sys.version.split()[0]}\n")
    facts = json.loads(data.stdout)
    for package in ("tensorflow", "keras", "numpy", "opencv-python-headless", "scikit-learn"):
        assert f"{package} {facts['packages'][package]}" in plain.stdout
    assert facts["threads"] >= 1
    assert f"processor flags {' '.join(facts['processor_flags'])}" in plain.stdout
    assert facts == json.loads(emotiw("--json", "--version").stdout)


def test_models_and_recipes_are_listed_without_keras(emotiw: Emotiw) -> None:
    models = json.loads(emotiw("models", "--json").stdout)
    assert {"alexnet", "caffenet", "vgg_cnn_m_2048"} <= {model["name"] for model in models}
    assert {model["name"]: model["parameters"] for model in models}["alexnet"] == 60_965_224
    table = emotiw("models").stdout.splitlines()
    assert len(table) == len(models) + 1 and "60,965,224" in "".join(table)
    channels = {line.split()[0]: line.split()[4] for line in table[1:]}
    assert (channels["face_vgg"], channels["alexnet"], channels["squeezenet"]) == ("grey", "bgr", "bgr")
    recipes = json.loads(emotiw("recipes", "--json").stdout)
    assert {"demo", "finetune", "fer28-scratch", "ng2015-fer28-target"} <= {recipe["name"] for recipe in recipes}
    assert all(recipe["stages"] and recipe["description"] for recipe in recipes)
    assert len(emotiw("recipes").stdout.splitlines()) == len(recipes)


def test_the_shell_completes_recipes_networks_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    completer = BashComplete(cli_main.cli, {}, "emotiw", "_EMOTIW_COMPLETE")

    def offered(*words: str) -> list[str]:
        return [item.value for item in completer.get_completions(list(words[:-1]), words[-1])]

    assert offered("fit", "fine") == ["finetune"]
    assert offered("fit", "--model", "vgg_cnn_m_2") == ["vgg_cnn_m_2048"]
    assert offered("fit", "--weights", "fer28-f") == ["fer28-face-vgg", "fer28-face-vgg-votes"]
    assert offered("predict", "photo.jpg", "--model", "ru") == offered("evaluate", "ru") == ["runs/mine"]
    assert "--annotate" in offered("predict", "--ann")
    for words in (
        ("predict",),
        ("prepare",),
        ("summary",),
        ("evaluate", "mine", "--data"),
        ("predict", "a.png", "--out"),
        ("audit",),
    ):
        kinds = [item.type for item in completer.get_completions(list(words), "ph")]
        assert kinds in (["file"], ["dir"]), words


def test_a_flag_of_the_version_before_a_command_is_refused(emotiw: Emotiw) -> None:
    told = emotiw("--json", "recipes")
    assert told.returncode == 2 and "put it behind" in told.stderr and not told.stdout
    assert json.loads(emotiw("--json", "--version").stdout) and json.loads(emotiw("--version", "--json").stdout)


def test_the_printed_text_of_a_recipe_is_that_recipe(emotiw: Emotiw, tmp_path: Path) -> None:
    from emotiw_keras.training.recipe import load_recipe

    (tmp_path / "mine.toml").write_text(emotiw("recipes", "finetune").stdout)
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe("finetune")


def raising(error: BaseException) -> Callable[..., None]:
    def call(*arguments: object, **options: object) -> None:
        raise error

    return call


class ResourceExhaustedError(Exception):
    """Named like TensorFlow's own."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.UsageError("two\nlines"), 2, "emotiw: error: two lines\n"),
        (errors.DataError("d"), 4, "emotiw: error: d\n"),
        (errors.ModelError("m"), 5, "emotiw: error: m\n"),
        (errors.OutputError("o"), 6, "emotiw: error: o\n"),
        (errors.DivergedError("v"), 7, "emotiw: error: v\n"),
        (errors.RunError("r"), 8, "emotiw: error: r\n"),
        (KeyboardInterrupt(), 130, "emotiw: interrupted\n"),
        (
            MemoryError("1 GB"),
            1,
            "emotiw: error: out of memory (1 GB); use a smaller batch or --limit, or close other programs\n",
        ),
        (ResourceExhaustedError("OOM"), 1, "emotiw: error: out of memory (OOM)"),
    ],
)
def test_errors_become_one_line_and_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(cli_main.cli, "main", raising(error))
    assert cli_main.run([]) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_main.cli, "main", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli_main.run([])


@pytest.mark.parametrize("words", [["models", "--json"], ["--help"]])
def test_a_reader_that_goes_away_ends_a_command_as_sigpipe_does(words: list[str]) -> None:
    script = f"import sys; from emotiw_keras.cli.main import main; sys.argv[1:] = {words}; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize("tensorflow", [True, False])
@pytest.mark.parametrize(("command", "code"), [("models", 0), ("recipes no-such-recipe", 2)])
def test_a_command_that_used_tensorflow_ends_without_taking_it_apart(
    command: str, code: int, tensorflow: bool, tmp_path: Path
) -> None:
    script = f"""
import atexit, sys, threading, time, types
from emotiw_keras.cli.main import main

class Module(types.ModuleType):
    def __del__(self):
        print("taken apart", file=open({str(tmp_path / "apart")!r}, "w"))

sys.modules[{"tensorflow" if tensorflow else "other"!r}] = Module("heavy")
sys.argv[1:] = {command.split()!r}
atexit.register(print, "before main")
from emotiw_keras.cli import main as module
before = module.run
def late():
    atexit.register(print, "handler")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    return before()
module.run = late
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert ("alexnet" in done.stdout) == (command == "models") and ("no-such-recipe" in done.stderr) == (code == 2)
    assert lines[-3:] == ["thread", "handler", "before main"] if not tensorflow else lines[-2:] == ["thread", "handler"]
    assert (tmp_path / "apart").exists() is not tensorflow


def test_a_bug_tells_its_code_after_tensorflow_too() -> None:
    script = """
import sys
from emotiw_keras.cli import main as module
sys.modules["tensorflow"] = sys
module.run = lambda: 1 / 0
module.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_signals_end_the_command_with_their_code_and_one_line(number: int, code: int, word: str, tmp_path: Path) -> None:
    fifo = tmp_path / "held.toml"
    os.mkfifo(fifo)
    # The command waits for the writer of a recipe that never comes.
    script = f"import sys; from emotiw_keras.cli.main import main; sys.argv[1:] = ['recipes', {str(fifo)!r}]; main()"
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals)
    try:
        # Opening for writing succeeds as soon as the command has opened it for reading.
        writer = _open_when_read(fifo, process)
        # Python heeds no signal that comes between its last look and the system's read, which then waits.
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        os.close(writer)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code and said.strip() == f"emotiw: {word}"


def test_a_training_saves_as_by_sigterm_when_its_terminal_closes_and_tells_sighup(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[bool] = []
    monkeypatch.setattr(interrupts, "leave_terminal", lambda: gone.append(True))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with interrupts.delayed_signals() as flag:
            signal.raise_signal(signal.SIGHUP)
        assert flag.number == signal.SIGHUP and flag.number in interrupts.SIGNALS and gone == [True]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with interrupts.delayed_signals() as flag:
            signal.raise_signal(signal.SIGHUP)
        assert flag.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_garbage_is_collected_is_not_lost(number: str, code: int) -> None:
    """Python drops what is raised there; a training went on to its end."""
    script = f"""
import gc, os, signal, time
from emotiw_keras.cli import main as module

def collecting(phase, info):
    gc.callbacks.remove(collecting)
    os.kill(os.getpid(), signal.{number})
    time.sleep(0.01)

class Held:
    def main(self, **_):
        gc.callbacks.append(collecting)
        gc.collect()
        time.sleep(20)

module.cli = Held()
module.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, preexec_fn=default_signals
    )  # fmt: skip
    assert done.returncode == code and len(done.stderr.splitlines()) == 1


def _open_when_read(fifo: Path, process: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"the command did not open {fifo}: {process.communicate(timeout=5)[1]}")


def test_help_costs_little_more_than_starting_python() -> None:
    def seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, which other work on the machine does not add to; the help page waits for nothing.
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    helping = "import sys; from emotiw_keras.cli.main import main; sys.argv[1:] = ['--help']; main()"
    pairs = [(seconds("-c", "pass"), seconds("-c", helping)) for _ in range(8)]
    bare, helped = (min(times) for times in zip(*pairs, strict=True))
    assert helped - bare <= 0.15


@pytest.mark.parametrize("level", [None, "3"])
def test_tensorflow_starts_quietly_unless_asked_to_talk(level: str | None) -> None:
    script = (
        "from emotiw_keras.cli.quiet import quiet_tensorflow; quiet_tensorflow()\n"
        "import tensorflow as tf; print(tf.add(1, 1).numpy())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    quiet = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "2\n", "")


def test_an_import_that_fails_shows_what_was_held_back(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'reason from the library\\n')\nraise ImportError('broken')\n"
    )
    script = "from emotiw_keras.cli.quiet import quiet_tensorflow; quiet_tensorflow(); import tensorflow"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[1])])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "reason from the library" in done.stderr and "broken" in done.stderr
