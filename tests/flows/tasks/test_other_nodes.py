"""A training on two nodes: two real workers of one pool, two ranks each. One node dies as a machine does; another takes over."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from flows.stack.stack import StackStatus
from tests.flows.cli.test_deploy import ROOT, api, wait_for
from tests.flows.command_line import vitseg
from tests.training.conftest import SMALL
from vitseg.checkpoint import checkpoint_keys, newest_checkpoint
from vitseg.config import load_recipe
from vitseg.data.commit import commit
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.dist import World
from vitseg.errors import TrainingError, UsageError
from vitseg.registry import tracking
from vitseg.storage import join, open_store
from vitseg.training.job import Job, job_folder, read_job, write_job
from vitseg.training.nodes import Nodes, split_address
from vitseg.training.worker import train_rank

SHARDS = "s3://vitseg/nodes/shards"
# AdamW: Muon makes more of how sums over four ranks were rounded.
OVERRIDES = [*SMALL, "run.epochs=8", "optimizer.name=adamw"]


class Worker:
    """A worker for one run at a time, with all that it starts: what one machine of a GPU pool is."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--type", "process"]
        command += ["--limit", "1"]
        environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with (folder / "worker.log").open("a") as log:
            self.process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def works_on(self, run: str) -> bool:
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


@pytest.fixture
def workers(deployments: dict[str, str], tmp_path: Path) -> Iterator[list[Worker]]:
    workers = [Worker(tmp_path), Worker(tmp_path)]
    yield workers
    for worker in workers:
        if worker.process.is_running():
            worker.die()


@pytest.mark.slow
def test_a_node_that_dies_costs_no_step(
    deployments: dict[str, str], scenes: Path, workers: list[Worker], tmp_path: Path
) -> None:
    plan = make_plan(str(scenes), size=(32, 64), shard_samples=8)
    commit(plan, [write_shard(shard, plan.options, SHARDS) for shard in plan.shards], SHARDS)
    recipe = load_recipe("tiny", overrides=OVERRIDES)
    folder = job_folder(SHARDS, read_manifest(SHARDS).fingerprint, recipe)
    checkpoints = open_store(join(folder, "checkpoints"))
    parameters = {"shards": SHARDS, "overrides": OVERRIDES, "nproc": 2, "nnodes": 2, "name": "nodes"}
    run = start(deployments["train"], parameters)
    wait_for(lambda: any(key >= "step-00000004" for key in checkpoint_keys(checkpoints)) or ended(run), 120, every=0.2)
    assert not ended(run), log(run)

    (node,) = nodes_of(run)
    (victim,) = [worker for worker in workers if worker.works_on(node["id"])]
    victim.die()
    workers[workers.index(victim)] = Worker(tmp_path)
    straight = Job(str(tmp_path / "straight"), SHARDS, read_manifest(SHARDS).fingerprint, recipe)
    straight = replace(straight, run_id=tracking.start_run("straight", {}, {}))
    write_job(straight)
    train_rank(straight.folder, World(0, 1, torch.device("cpu")))  # while Prefect finds another node
    wait_for(lambda: ended(run), 120)

    assert state(run) == "COMPLETED", log(run)
    assert "going on from the newest checkpoint" in log(run), "it was killed too late"
    assert sorted(it["state_type"] for it in nodes_of(run)) == ["CANCELLING", "COMPLETED"]  # the first: by nobody
    job = read_job(folder)
    assert job is not None
    assert job.result["model_uri"] == "models:/nodes/1"
    histories = [json.loads(open_store(it.folder).read("history.json")) for it in (straight, job)]
    assert [row["step"] for row in histories[1]] == [3 * epoch for epoch in range(1, recipe.run.epochs + 1)]
    for mine, theirs in zip(*histories, strict=True):
        assert theirs == pytest.approx(mine, abs=1e-4)
    ends = [newest_checkpoint(open_store(it.checkpoints)) for it in (straight, job)]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, tensor in ends[0].part("model").items():
        torch.testing.assert_close(ends[1].part("model")[name], tensor, atol=1e-3, rtol=0)
    losses = [logged(it.run_id) for it in (straight, job)]
    assert losses[0].keys() == losses[1].keys()
    for step, values in losses[1].items():  # one that was taken again, after the newest checkpoint, was the same
        assert values == pytest.approx([losses[0][step][0]] * len(values), abs=1e-4)


def logged(run_id: str) -> dict[int, list[float]]:
    """Return the losses that a run has logged, by step."""
    found: dict[int, list[float]] = {}
    for metric in tracking.MlflowClient().get_metric_history(run_id, "step/loss"):
        found.setdefault(metric.step, []).append(metric.value)
    return found


def test_a_node_without_a_worker_is_told_of_and_cancelled(
    deployments: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.context import refresh_global_settings_context

    from flows.tasks import other_nodes  # imports Prefect, which must know the server by then

    refresh_global_settings_context()  # another test may have imported it before there was this server
    job = Job("s3://vitseg/nodes/none", SHARDS, "", load_recipe("tiny"))
    with (
        pytest.raises(TrainingError, match="1 node of 2 found no worker in 0 minutes: each node needs a free worker"),
        other_nodes.other_nodes(job, Nodes(2, 2, other_nodes.meeting_place()), minutes=0),
    ):
        pytest.fail("it began without the other node")
    (run,) = api("POST", "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    assert (run["parameters"]["job"], run["state_type"]) == (job.folder, "CANCELLED")
    monkeypatch.setattr(other_nodes, "DEPLOYMENT", "train-node/nobody")
    with (
        pytest.raises(UsageError, match="no deployment train-node/nobody: `vitseg deploy`"),
        other_nodes.other_nodes(job, Nodes(2, 2, other_nodes.meeting_place()), minutes=0),
    ):
        pytest.fail("it began without the other node")


def test_nodes_meet_where_this_machine_is_reached(stack: StackStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tasks import other_nodes

    host, port = split_address(other_nodes.meeting_place())
    assert host == "127.0.0.1"  # as Prefect's server is here
    with socket.socket() as free:
        free.bind((host, port))
    monkeypatch.setenv(other_nodes.ADDRESS, "localhost")
    assert other_nodes.meeting_place().startswith("localhost:")
    for elsewhere in ("192.0.2.1", "nowhere.invalid"):
        monkeypatch.setenv(other_nodes.ADDRESS, elsewhere)
        with pytest.raises(UsageError, match=f"can't reach this one at {elsewhere}.*{other_nodes.ADDRESS}"):
            other_nodes.meeting_place()


def start(deployment: str, parameters: dict[str, Any]) -> str:
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(api("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])


def state(run: str) -> str:
    return str(api("GET", f"/flow_runs/{run}")["state_type"])


def ended(run: str) -> bool:
    return state(run) in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def nodes_of(run: str) -> list[dict[str, Any]]:
    """Return the runs of `train-node` that a run of `train` has asked for."""
    return api("POST", "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})


def log(run: str) -> str:
    lines = api("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
    return "\n".join(line["message"] for line in lines)
