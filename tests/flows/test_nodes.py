"""A training on two nodes: two real workers of one pool, two ranks each. One node dies as a machine does; another takes over."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from flows.stack import StackStatus
from tests.flows.command_line import vitseg
from tests.flows.test_deployments import ROOT, api
from tests.training.conftest import SMALL, small_recipe
from vitseg.checkpoint import newest_checkpoint
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import commit, write_shard
from vitseg.dist import World
from vitseg.registry import tracking
from vitseg.storage import join, open_store
from vitseg.training.job import Job, job_folder, write_job
from vitseg.training.worker import train_rank

SHARDS = "s3://vitseg/nodes/shards"
# AdamW: Muon makes more of how sums over four ranks were rounded.
OVERRIDES = [*SMALL, "run.epochs=8", "optimiser.name=adamw"]


class Worker:
    """A worker for one run at a time, with all that it starts: what one machine of a GPU pool is."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1"]
        environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with (folder / "worker.log").open("a") as log:
            self.process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def runs(self, run: str) -> bool:
        return any(self._variable(child, "PREFECT__FLOW_RUN_ID") == run for child in self.children())

    def children(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def die(self) -> None:
        """End as a machine does that loses its power: nobody is told."""
        for process in [self.process, *self.children()]:
            process.kill()
        self.process.wait()

    @staticmethod
    def _variable(process: psutil.Process, name: str) -> str | None:
        try:
            return process.environ().get(name)
        except psutil.Error:
            return None


@pytest.fixture(scope="module")
def deployments(stack: StackStatus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Register the two flows as infra/prefect.yaml does; return their ids."""
    folder = tmp_path_factory.mktemp("infra")
    file = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())
    file["deployments"] = [row for row in file["deployments"] if row["name"] in ("train", "train-node")]
    (folder / "prefect.yaml").write_text(yaml.safe_dump(file))
    (folder / "automations.yaml").write_text((ROOT / "infra/automations.yaml").read_text())
    done = vitseg("deploy", "--file", str(folder / "prefect.yaml"))
    assert done.code == 0, done.err
    return {row["name"]: row["id"] for row in api("POST", "/deployments/filter")}


@pytest.fixture(scope="module")
def shards(stack: StackStatus, scenes: Path) -> str:
    plan = make_plan(str(scenes), size=(32, 64), shard_samples=8)
    commit(plan, [write_shard(shard, plan.options, SHARDS) for shard in plan.shards], SHARDS)
    return SHARDS


@pytest.fixture
def workers(deployments: dict[str, str], tmp_path: Path) -> Iterator[list[Worker]]:
    workers = [Worker(tmp_path), Worker(tmp_path)]
    yield workers
    for worker in workers:
        if worker.process.is_running():
            worker.process.terminate()
    for worker in workers:
        worker.process.wait(60)


def test_a_node_that_dies_costs_no_step(
    deployments: dict[str, str], shards: str, workers: list[Worker], tmp_path: Path
) -> None:
    recipe, fingerprint = small_recipe(*OVERRIDES[len(SMALL) :]), read_manifest(shards).fingerprint
    folder = job_folder(shards, fingerprint, recipe)
    run = start(deployments["train"], shards, name="nodes")

    def nodes() -> list[dict[str, Any]]:
        return api("POST", "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})

    def saved() -> int:
        checkpoint = newest_checkpoint(open_store(join(folder, "checkpoints")))
        return checkpoint.step if checkpoint else 0

    wait_until(lambda: saved() >= 4, run)
    (node,) = nodes()
    (victim,) = [worker for worker in workers if worker.runs(node["id"])]
    victim.die()
    workers[workers.index(victim)] = Worker(tmp_path)
    straight = trained_alone(tmp_path / "straight", shards, fingerprint)
    wait_until(lambda: state(run) not in ("PENDING", "RUNNING"), run)

    assert state(run) == "COMPLETED", log(run)
    assert "Retry 1/2" in log(run), "it was killed too late"
    assert {it["id"]: it["state_type"] for it in nodes()}.pop(node["id"]) == "CANCELLING"
    assert sorted(it["state_type"] for it in nodes()) == ["CANCELLING", "COMPLETED"]
    history = json.loads(open_store(folder).read("history.json"))
    assert [row["step"] for row in history] == [3 * epoch for epoch in range(1, 9)]
    for mine, theirs in zip(straight.history, history, strict=True):
        assert theirs == pytest.approx(mine, abs=1e-4)
    end = newest_checkpoint(open_store(join(folder, "checkpoints")))
    assert end is not None
    for name, tensor in straight.tensors.items():
        torch.testing.assert_close(end.tensors[name], tensor, atol=1e-3, rtol=0, msg=name)
