"""infra/kubernetes against the schemas of Kubernetes, and what a schema can't know; two nodes of a training, really run."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.stack.stack import StackStatus
from tests.infra.compose import FILE, ROOT

FOLDER = ROOT / "infra/kubernetes"
VERSION = "1.33"
"""The first that has a job's successPolicy for good."""


def objects(path: Path) -> list[dict[str, Any]]:
    return [it for it in yaml.safe_load_all(path.read_text()) if it]


WORKERS, TRAINING = objects(FOLDER / "workers.yaml"), objects(FOLDER / "training/training.yaml")
JOB = next(it for it in TRAINING if it["kind"] == "Job")
PODS = {it["metadata"]["name"]: it["spec"]["template"]["spec"] for it in [*WORKERS, JOB]}


@pytest.mark.parametrize("it", [*WORKERS, *TRAINING], ids=lambda it: f"{it['kind']}-{it['metadata']['name']}")
def test_fits_the_schema(it: dict[str, Any]) -> None:
    kubernetes_validate.validate(it, VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")
@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "training"], ids=["workers", "training"])
def test_kustomize_builds_it(folder: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for it in built:
        kubernetes_validate.validate(it, VERSION, strict=True)
        assert it["metadata"]["namespace"] == "vitseg"
    assert not re.search(r"image: vitseg$", done.stdout, re.MULTILINE), "an image without registry and tag"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_little_and_ends_in_order(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "infra/Dockerfile").read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/state", "/tmp", "/dev/shm"}, "what is written to, as all else is read-only"
    shm = next(volume for volume in pod["volumes"] if volume["name"] == mounts["/dev/shm"])
    assert shm["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", PODS)
def test_secrets_are_referred_to_and_nothing_is_missing(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "vitseg"}}, {"secretRef": {"name": "vitseg"}}]
    assert "env" not in container
    (config,) = objects(FOLDER / "kustomization.yaml")[0]["configMapGenerator"]
    given = {literal.split("=")[0] for literal in config["literals"]}
    secret = set(
        re.findall(r"\b(?:AWS|MLFLOW|PREFECT)_[A-Z_]+", (FOLDER / "workers.yaml").read_text().split("apiVersion")[0])
    )
    assert not given & secret
    assert yaml.safe_load(FILE.read_text())["x-clients"].keys() <= given | secret, "what a worker of compose.yaml knows"


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_workers_are_those_of_compose(pool: str) -> None:
    (container,) = PODS[f"{pool}-worker"]["containers"]
    command = yaml.safe_load(FILE.read_text())["services"][f"{pool}-worker"]["command"].removesuffix(
        " ${CPU_WORKER_OPTIONS:-}"
    )
    assert container["command"] == command.split()
    for probe in ("startupProbe", "readinessProbe"):
        assert "infra/health.py worker" in container[probe]["exec"]["command"][2]
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] >= 600, "a run must outlive a short absence of Prefect"


def test_nodes_of_a_training_find_each_other() -> None:
    spec, (container,) = JOB["spec"], PODS["vitseg-train"]["containers"]
    service = next(it for it in TRAINING if it["kind"] == "Service")
    arguments = dict(argument.lstrip("-").split("=", 1) for argument in container["args"][1:])
    host, _, port = arguments["rendezvous"].rpartition(":")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(arguments["nnodes"])
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert host == f"{JOB['metadata']['name']}-0.{service['metadata']['name']}"
    assert PODS["vitseg-train"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert [it["containerPort"] for it in container["ports"]] == [int(port)]


def test_two_nodes_train_together(stack: StackStatus, shards: str, tmp_path: Path) -> None:
    """Run the pods' own command twice, as two nodes of this machine; the second comes first, and waits."""
    (container,) = PODS["vitseg-train"]["containers"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        shards,
        "--name=two-nodes",
        "--preset=tiny",
        "--epochs=1",
        "--set=data.batch_size=8",
        "--nproc=1",
        "--nnodes=2",
    ]
    processes = []
    try:
        for index in (1, 0):
            environment = {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "JOB_COMPLETION_INDEX": str(index),
                "VITSEG_HOME": str(tmp_path / f"node-{index}"),
            }
            command = [*container["command"], *arguments, f"--rendezvous=127.0.0.1:{port}"]
            with (tmp_path / f"node-{index}.log").open("w") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        codes = [process.wait(270) for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
    said = {index: (tmp_path / f"node-{index}.log").read_text() for index in (0, 1)}
    assert codes == [0, 0], said
    assert "2 ranks" in said[0]
    assert "epoch 1/1: train loss" in said[0], "rank 0 is on the first node, whoever came first"
    assert "registered models:/two-nodes/1" in said[0].replace("\n", " ")
