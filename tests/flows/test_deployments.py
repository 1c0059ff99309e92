"""infra/prefect.yaml against a real server: what it registers, and that a real worker runs it."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flows.stack import StackStatus
from vitseg.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]
POOLS = {"preprocess": "cpu"} | dict.fromkeys(
    ("train", "train-node", "pretrain", "segment", "evaluate", "retrain"), "gpu"
)

Deployments = dict[str, dict[str, Any]]


def prefect(*arguments: str, folder: Path = ROOT) -> str:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def api(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    login = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(
        os.environ["PREFECT_API_URL"] + path,
        json.dumps(body or {}).encode() if method == "POST" else None,
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def deployments(stack: StackStatus) -> Deployments:
    """Register everything as the comment in infra/prefect.yaml says; return deployments by name."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: prefect("work-pool", "create", name, "--type", "process"), ("cpu", "gpu")))
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    return {row["name"]: row for row in api("POST", "/deployments/filter")}


def test_each_flow_is_on_its_pool(deployments: Deployments) -> None:
    assert {name: row["work_pool_name"] for name, row in deployments.items()} == POOLS


def test_one_training_at_a_time_and_the_others_wait(deployments: Deployments) -> None:
    limited = {name for name, row in deployments.items() if row["global_concurrency_limit"]}
    assert limited == {"train", "pretrain", "retrain"}
    for name in limited:
        assert deployments[name]["global_concurrency_limit"]["limit"] == 1
        assert deployments[name]["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_retrain_has_a_weekly_schedule_that_somebody_must_switch_on(deployments: Deployments) -> None:
    assert [name for name, row in deployments.items() if row["schedules"]] == ["retrain"]
    (schedule,) = deployments["retrain"]["schedules"]
    minute, hour, day, month, weekday = schedule["schedule"]["cron"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert weekday.isdigit()
    assert (day, month) == ("*", "*")
    assert not schedule["active"]


def test_no_path_of_this_machine_is_stored(deployments: Deployments) -> None:
    stored = json.dumps(list(deployments.values()))
    assert str(ROOT) not in stored
    assert str(Path.home()) not in stored
    assert not any(row["path"] or row["pull_steps"] for row in deployments.values())


def test_parameters_are_checked_before_anything_runs(deployments: Deployments) -> None:
    good = {"source": "s3://vitseg/source", "dest": "s3://vitseg/shards"}
    for wrong in ({"size": "256x256"}, {"size": [256]}, {"shard_samples": "many"}, {"dest": None}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            api("POST", f"/deployments/{deployments['preprocess']['id']}/create_flow_run", {"parameters": good | wrong})
        assert caught.value.code in (409, 422)


def test_a_worker_runs_preprocess_to_its_end(deployments: Deployments, scenes: Path, tmp_path: Path) -> None:
    dest = "s3://vitseg/deployed"
    parameters = {"source": str(scenes), "dest": dest, "size": [32, 64], "shard_samples": 8}
    run = api(
        "POST",
        f"/deployments/{deployments['preprocess']['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    log = prefect("worker", "start", "--pool", "cpu", "--type", "process", "--run-once", folder=tmp_path)
    assert api("GET", f"/flow_runs/{run['id']}")["state_type"] == "COMPLETED", log
    manifest = read_manifest(dest)
    assert {name: (split.samples, len(split.shards)) for name, split in manifest.splits.items()} == {
        "train": (24, 3),
        "val": (6, 1),
    }
