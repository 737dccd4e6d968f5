"""Peers of the benchmark: how they are started, and the protocol of those in Node, with stand-ins for their packages."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import LABELS, PEERS, peer_command, variants
from emotiw_keras.audit.adapter import Adapter

STAND_INS = {
    "@tensorflow/tfjs": "module.exports = { setBackend: async () => {}, tensor3d: (values) => values, dispose: () => {} };",
    "@tensorflow/tfjs-backend-wasm": "module.exports = { setWasmPaths: () => {} };",
    "@vladmandic/face-api": """
        const labels = ["angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"];
        const net = { loadFromDisk: async () => {} };
        net.predictExpressions = async (faces) => faces.map((face) => ({
          ...Object.fromEntries(labels.map((label) => [label, 0])), [labels[face[0]]]: face[face.length - 1] / 255,
        }));
        module.exports = { nets: { faceExpressionNet: net } };""",
}


def test_a_peer_is_a_module_or_a_node_script(tmp_path: Path) -> None:
    assert peer_command("fer_keras", "python", None) == ["python", "-m", "benchmarks.peer_fer", "fer_keras"]
    assert peer_command("facex", "python", None) == ["python", "-m", "benchmarks.peer_facex"]
    assert all(Path(peers.__file__).with_name(file).is_file() for file in PEERS.values())
    for folder in (None, str(tmp_path)):
        with pytest.raises(SystemExit, match="face_api needs Node and --node-folder"):
            peer_command("face_api", "python", folder)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_a_node_peer_reads_every_face_and_answers_in_our_order(tmp_path: Path) -> None:
    for name, code in STAND_INS.items():
        package = tmp_path / "node_modules" / name
        package.mkdir(parents=True)
        (package / "index.js").write_text(code)
        (package / "package.json").write_text(json.dumps({"version": "1.2.3", "license": "MIT", "main": "index.js"}))
    weights = tmp_path / "node_modules/@vladmandic/face-api/model/face_expression_model.bin"
    weights.parent.mkdir()
    weights.write_bytes(bytes(5))
    (tmp_path / "node_modules/@vladmandic/face-api/dist").mkdir()
    shutil.move(weights.parents[1] / "index.js", weights.parents[1] / "dist/face-api.node-wasm.js")
    faces = np.zeros((70, 48, 48), np.uint8)
    faces[:, 0, 0], faces[:, -1, -1] = np.arange(70) % 7, 100 + np.arange(70)
    np.save(tmp_path / "faces.npy", faces)
    with Adapter(peer_command("face_api", "python", str(tmp_path))) as node:
        facts = {"labels": list(LABELS), "version": "1.2.3", "licence": "MIT", "bytes": 5}
        assert {key: node.facts[key] for key in facts} == facts and "behind its detector" in node.facts["how"]
        figures = node.ask({"faces": str(tmp_path / "faces.npy"), "seconds": 0.01})
        told = node.predict(faces)
    assert figures["faces_per_second"] > 0 and min(figures["single_ms"]) > 0
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, np.eye(len(LABELS))[np.arange(70) % 7], rtol=1e-6)


def test_scores_of_any_sum_become_probabilities(tmp_path: Path) -> None:
    code = (
        "import numpy as np\nfrom benchmarks.peer_worker import serve\n"
        "serve(lambda faces: np.tile([3.0, 1.0], (len(faces), 1)), ['happy', 'sad'], {'version': '1'})\n"
    )
    with Adapter([sys.executable, "-c", code]) as mine:
        assert mine.predict(np.zeros((70, 48, 48), np.uint8)).tolist() == [[0.75, 0.25]] * 70


def test_an_engine_is_left_out_in_a_precision_that_it_does_not_compute_in(capsys: pytest.CaptureFixture[str]) -> None:
    asked = argparse.Namespace(
        run=["runs/a"], engine=["opencv", "tensorflow"], precision=["float32", "mixed_bfloat16"], crops=[]
    )
    found = variants(asked)
    assert list(found) == ["a, opencv, float32", "a, tensorflow, float32", "a, tensorflow, bfloat16"]
    assert "opencv does not compute in mixed_bfloat16 here: left out" in capsys.readouterr().err
