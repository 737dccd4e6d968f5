"""docs/scale.md and the files beside it: what they tell to copy can be meant."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.scale_train import summed, wire_bytes
from emotiw_keras.cli.main import cli
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.workers import workers_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "scale.md").read_text(encoding="utf-8")


def check_fit(words: list[str]) -> None:
    """Every option is one of `emotiw fit`, and the recipe is there."""
    command = cli.get_command(None, "fit")  # type: ignore[arg-type]
    context = command.make_context("fit", list(words))
    assert load_recipe(context.params["recipe"]).stages


def test_the_commands_of_the_guide() -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("emotiw ")]
    assert len(commands) == 5
    for command in commands:
        assert command[1] == "fit"
        check_fit(command[2:])
    configs = [shlex.split(line)[1].partition("=")[2] for line in lines if line.startswith("export TF_CONFIG=")]
    assert [workers_of({"TF_CONFIG": config}).number for config in configs] == [0, 1]
    assert len({json.dumps(json.loads(config)["cluster"]) for config in configs}) == 1


def test_the_job_for_kubernetes() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (job,) = yaml.safe_load_all((DOCS / "scale/tfjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    replicas = job["spec"]["tfReplicaSpecs"]
    assert set(replicas) == {"Worker"}, "the jobs that `workers_of` knows are Chief and Worker"
    worker = replicas["Worker"]
    assert worker["replicas"] >= 2
    assert worker["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow", "Kubeflow looks for a container of this name"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][:2] == ["emotiw", "fit"]
    check_fit(container["command"][2:])


def test_the_script_for_slurm() -> None:
    script = DOCS / "scale/fit.sbatch"
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(script)], check=True)
    (command,) = [line for line in text.splitlines() if line.startswith("srun ")]
    words = shlex.split(command)
    check_fit([word.replace("$SLURM_CPUS_PER_TASK", "8") for word in words[words.index("fit") + 1 :]])


def test_the_bytes_that_the_guide_tells() -> None:
    rows = re.findall(
        r"^\| (\w+(?:, width [0-9.]+)?) \| ([0-9,]+) \| ([0-9.]+) MB \| ([0-9,]+) ms \| (\d+) ms \|$", TEXT, re.MULTILINE
    )
    assert len(rows) == 3
    for _, parameters, megabytes, *milliseconds in rows:
        sent = wire_bytes(summed(int(parameters.replace(",", "")), 64, 7), 2)
        assert round(sent / 1e6, 1) == float(megabytes)
        assert [round(8e3 * sent / link) for link in (1e9, 10e9)] == [int(each.replace(",", "")) for each in milliseconds]
