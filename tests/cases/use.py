"""Checks of cases about the package in Python, with Keras, and served."""

from __future__ import annotations

import re

from tests.cases.tools import ROOT, Case, expect


def doctests_never_run(case: Case) -> None:
    words = [
        "-m",
        "pytest",
        "-q",
        "--doctest-modules",
        ROOT / "emotiw_keras",
        "-o",
        "addopts=",
        "-o",
        "testpaths=",
        "--rootdir",
        ROOT,
    ]
    ignored = f"--ignore={ROOT}/emotiw_keras/serving/onnx_answers.py"
    # How a number is written (TensorShape, tuple) is that of `tests/test_examples.py`, which says which way each is run.
    case.python(*words, ignored, "-p", "no:cacheprovider", timeout=580, said=r"\d+ passed")


def keras_file_lazy(case: Case) -> None:
    make = (
        "from emotiw_keras.models import AlexNet; "
        "AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.1).save('m.keras')"
    )
    case.python("-c", make)
    for imported in ("emotiw_keras", "emotiw_keras.models"):
        case.python(
            "-c", f"import keras, {imported}; print(keras.models.load_model('m.keras').output_shape)", said=r"\(None, 7\)"
        )


def keras_half_policies(case: Case) -> None:
    script = (case.folder / "bn.py").read_text()
    for policy in ("bfloat16", "float16", "float64"):
        for network in ("FaceVGG", "SENet50"):
            text = script.replace("'bfloat16'", repr(policy)).replace('"bfloat16"', f'"{policy}"').replace("FaceVGG", network)
            if network == "SENet50":
                text = text.replace("(1, 48, 48, 1)", "(1, 64, 64, 3)").replace(
                    "classes=7)", "classes=7, input_shape=(64, 64, 3))"
                )
            (case.work / "bn.py").write_text(text)
            case.python("bn.py", said=r"dtype")


def preprocess_input_tensors(case: Case) -> None:
    case.python(case.folder / "pre.py", said=r"\(2, 67, 67, 3\)")
    more = """
import importlib, keras, numpy as np
from emotiw_keras.models.registry import get_spec, model_names
for name in model_names():
    if name.startswith("keras:"): continue
    module = importlib.import_module("emotiw_keras.models." + get_spec(name).module.rpartition(".")[2])
    if not hasattr(module, "preprocess_input"): continue
    module.preprocess_input(keras.Input((67, 67, 3)))
    module.preprocess_input(np.zeros((1, 3, 67, 67), "float32"), data_format="channels_first")
    print(name)
"""
    case.python("-c", more, said="alexnet")


def tfserving_labels(case: Case) -> None:
    case.emotiw("export", case.model(), "savedmodel")
    done = case.python(case.folder / "check.py", "savedmodel/1")
    lines = done.stdout.strip().splitlines()
    expect(len(lines) == 3 and all(line.endswith("ok") for line in lines), "\n".join(lines))


def tuner_refuses_keras(case: Case) -> None:
    (case.work / "runs").mkdir()
    done = case.python(case.folder / "interop.py", timeout=580)
    # Two are no use as they are; the sentence says what is.
    told = r"give it as schedule= instead|expected batches of one size, as \.batch\(64\) makes"
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL") and not re.search(told, line)]
    expect(not failed, "\n".join(failed))


def winograd_neighbours(case: Case) -> None:
    script = (case.folder / "mix.py").read_text()
    (case.work / "mix.py").write_text(
        script.replace("emotiw_keras.models.large_batches", "emotiw_keras.models.kernels.large_batches")
    )
    done = case.python("mix.py", timeout=580)
    expect("winograd" in done.stdout, done.stdout)
    for line in done.stdout.splitlines():
        found = re.search(r"winograd (\[.*?\]) stock (\[.*?\]) rel err of neighbours (\S+)", line)
        if found:
            expect(found[1] == "[]" and float(found[3]) < 1e-5, line)
