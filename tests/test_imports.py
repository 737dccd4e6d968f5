"""Imports point one way, and what the command line reaches at once stays light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; a module may import from its own floor and from those below.
FLOORS = (
    (
        "errors",
        "files",
        "hardware",
        "sealed",
        "locking",
        "text",
        "arguments",
        "keras_names",
        "keras_settings",
        "plain_facts",
        "packed_rows",
        "config",
        "own_process",
        "talk",
        "progress",
        "html",
        "fonts",
    ),
    ("labels", "costs", "heads", "uncertainty", "activations", "engines"),
    ("weights",),
    ("formats",),
    ("models", "conversion"),
    ("faces",),
    ("data",),
    (
        "runs",
        "own_network",
        "without_places",
        "run_facts",
        "inference",
        "light_inference",
        "onnx_network",
        "observing",
        "history",
        "charts",
        "run_view",
        "gradcam",
        "fold_runs",
        "out_of_fold",
    ),
    ("training", "evaluation", "serving"),
    ("pathnet", "bulk"),
    ("studies", "audit"),
    ("reports",),
    ("cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# On these floors the rooms have no doors between them.
SEPARATE = {"training", "evaluation", "serving"}
HEAVY = ("tensorflow", "keras", "jax", "torch", "cv2", "matplotlib", "sklearn", "scipy", "PIL", "tqdm")
LIGHT = (
    "__init__", "config", "labels", "errors", "files", "runs", "models.registry", "training.stage", "training.recipe",
    "training.interrupts",
)  # fmt: skip
# What pip installs is called otherwise than what Python imports.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pillow_heif": "pillow-heif",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
}


def source_files() -> dict[str, Path]:
    """Module name below emotiw_keras -> file, for the package, cli/ and weights/."""
    places = {"": ROOT / "emotiw_keras", "cli.": ROOT / "cli", "weights.": ROOT / "weights"}
    files = {}
    for prefix, folder in places.items():
        for path in sorted(folder.rglob("*.py")):
            files[prefix + ".".join(path.relative_to(folder).with_suffix("").parts)] = path
    return files


FILES = source_files()


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Full names of what a tree imports, anywhere in it, with line numbers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            # `from emotiw_keras import labels` names a module in the second place.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def without_types(tree: ast.Module) -> ast.Module:
    """A tree without what is imported for type checkers alone."""

    class Running(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Running().visit(tree)


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: no function bodies, nothing for type checkers alone."""

    def runs(node: ast.stmt) -> bool:
        return not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

    return Shallow().visit(ast.Module([node for node in tree.body if runs(node)], type_ignores=[]))


@pytest.mark.parametrize("module", [name for name in FILES if name != "__init__"])
def test_imports_point_downwards(module: str) -> None:
    room = module.split(".")[0]
    assert room in FLOOR, f"{module} has no place in the order of imports; give it one in FLOORS"
    for name, line in imported(ast.parse(FILES[module].read_text())):
        parts = name.split(".")
        if parts[0] not in ("emotiw_keras", "cli", "weights") or len(parts) == 1 or parts[1] == "__version__":
            continue
        assert parts[0] == "emotiw_keras", f"{module}:{line} imports {name}; the installed name is emotiw_keras.{name}"
        other = parts[1]
        assert other in FLOOR, f"{module}:{line} imports {name} through the package; import it from its own module"
        assert FLOOR[other] <= FLOOR[room], f"{module}:{line} imports {name}: an arrow upwards"
        assert other == room or not {other, room} <= SEPARATE, f"{module}:{line} imports {name}: {room} must not know {other}"


def test_imports_run_in_no_circle() -> None:
    """Not even through an import inside of a function."""
    modules = {
        f"emotiw_keras.{name}".removesuffix(".__init__").removesuffix("__init__").rstrip("."): path
        for name, path in FILES.items()
    }
    needs = {
        module: {
            max((other for other in modules if f"{name}.".startswith(f"{other}.")), key=len, default="")
            for name, _ in imported(without_types(ast.parse(path.read_text())))
        }
        & (modules.keys() - {"emotiw_keras", module})
        for module, path in modules.items()
    }
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [name for name in FILES if name in LIGHT or name.startswith("cli.")])
def test_light_modules_name_nothing_heavy_at_their_top(module: str) -> None:
    for name, line in imported(top_level(ast.parse(FILES[module].read_text()))):
        assert name.split(".")[0] not in HEAVY, f"{module}:{line} imports {name} at its top"


def modules_after(imports: list[str]) -> set[str]:
    code = f"import sys, importlib\nfor name in {imports!r}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_light_modules_load_nothing_heavy_through_others() -> None:
    light = [name for name in FILES if name in LIGHT or name.startswith("cli.")]
    names = ["emotiw_keras" if name == "__init__" else f"emotiw_keras.{name.removesuffix('.__init__')}" for name in light]
    assert modules_after(names) & set(HEAVY) == set()


def test_reading_data_needs_no_network_library() -> None:
    names = [f"emotiw_keras.data.{name}" for name in ("load", "images", "resize", "generated", "prepare")]
    assert modules_after(names) & {"tensorflow", "keras", "jax", "torch"} == set()


def test_the_help_page_loads_click_alone() -> None:
    code = "import sys\nfrom emotiw_keras.cli.main import run\nrun(['--help'])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "click" in modules
    commands = {name for name in modules if name.startswith("emotiw_keras.cli.")}
    assert commands == {"emotiw_keras.cli.main"}
    assert {name.split(".")[0] for name in modules} & {*HEAVY, "numpy", "keras"} == set()


def test_every_library_that_is_imported_is_declared() -> None:
    import configparser
    import re

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    # ONNX and the server are needed by one command each, engines by one option, pillow-heif and PyAV by one format, the hub by
    # an address: all say so where they are missing.
    lines = setup["options"]["install_requires"].splitlines()
    extras = ("onnx", "engines", "heic", "interlaced", "hub", "parquet", "cloud", "serve")
    lines += [line for extra in extras for line in setup["options.extras_require"][extra].splitlines()]
    declared = {re.split(r"[<>=~! ;]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    used = {name.split(".")[0] for path in FILES.values() for name, _ in imported(ast.parse(path.read_text()))}
    libraries = {name for name in used if name not in sys.stdlib_module_names} - {"emotiw_keras"}
    assert {DISTRIBUTIONS.get(name, name).lower() for name in libraries} <= declared


def test_engines_that_write_to_their_makers_are_imported_where_that_is_ended() -> None:
    files = FILES | {f"benchmarks/{path.name}": path for path in (ROOT / "benchmarks").glob("*.py")}
    found = {(name, each) for name, path in files.items() for each, _ in imported(ast.parse(path.read_text()))}
    talking = {(name, each) for name, each in found if each.split(".")[0] in ("onnxruntime", "openvino")}
    assert talking == {("engines", "onnxruntime"), ("engines", "openvino"), ("serving.onnx_answers", "onnxruntime")}
