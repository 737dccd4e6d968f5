"""Peers of the benchmark: how they are started, and the protocol of those in Node, with stand-ins for their packages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import LABELS, PEERS, Contestant, peer_command

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
    assert peer_command("fer_keras", "python", None) == ["python", "-m", "benchmarks.peer_fer"]
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
    faces[:, 0, 0], faces[:, -1, -1] = np.arange(70) % 7, np.arange(70)
    np.save(tmp_path / "faces.npy", faces)
    node = Contestant("face_api", [*peer_command("face_api", "python", str(tmp_path)), str(tmp_path), "face_api", "0.01"])
    assert node.facts == {"version": "1.2.3", "licence": "MIT", "bytes": 5}
    figures = node.turn()
    assert figures["faces_per_second"] > 0 and min(figures["single_ms"]) > 0
    node.end()
    told = np.load(tmp_path / "face_api.npy", allow_pickle=False)
    expected = np.eye(len(LABELS))[np.arange(70) % 7] * (np.arange(70) / 255)[:, None]
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, expected, rtol=1e-6)
