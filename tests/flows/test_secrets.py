"""No secret of the servers gets into anything that a job leaves behind or says."""

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.stack.stack import StackStatus
from tests.flows.command_line import vitseg
from tests.training.conftest import SMALL
from vitseg.storage import join, open_store

BUCKET = "s3://vitseg/secrets"
TRAIN = ["--preset", "tiny", *(part for value in SMALL for part in ("--set", value)), "--epochs", "1"]


@pytest.fixture
def secrets(stack: StackStatus) -> dict[str, bytes]:
    """Return each secret as it is, and as a basic authentication header would hold it."""
    keys = json.loads(Path(stack.credentials).read_text())
    prefect = keys["prefect_auth"]
    found = {
        "s3": keys["s3_secret_key"],
        "mlflow": keys["mlflow_password"],
        "session": keys["mlflow_session_key"],
        "prefect": prefect.partition(":")[2],
        "prefect header": base64.b64encode(prefect.encode()).decode(),
        "mlflow header": base64.b64encode(f"{keys['mlflow_username']}:{keys['mlflow_password']}".encode()).decode(),
    }
    assert all(len(value) > 20 for value in found.values())
    return {name: value.encode() for name, value in found.items()}


def ask_prefect(stack: StackStatus, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Read all pages of a filter of the REST API."""
    url = next(server.url for server in stack.servers if server.name == "prefect")
    login = json.loads(Path(stack.credentials).read_text())["prefect_auth"]
    rows: list[dict[str, Any]] = []
    while True:
        request = urllib.request.Request(
            f"{url}/api/{path}/filter",
            json.dumps({**body, "limit": 200, "offset": len(rows)}).encode(),
            {"Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(login.encode()).decode()},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            page = json.load(answer)
        rows += page
        if len(page) < 200:
            return rows


def test_nothing_holds_a_secret(stack: StackStatus, secrets: dict[str, bytes], scenes: Path, tmp_path: Path) -> None:
    left: dict[str, bytes] = {}  # where → what
    shards = join(BUCKET, "shards")
    commands = {
        "preprocess": ["preprocess", str(scenes), shards, "--size", "64x32", "--shard-samples", "16", "--json"],
        "train": ["train", shards, *TRAIN, "--nproc", "1", "--name", "discreet", "--json"],
    }
    for name, command in commands.items():
        done = vitseg(*command)
        assert done.code == 0, done.err
        left[f"output of {name}"] = (done.out + done.err).encode()
    trained = done.json

    store = open_store(BUCKET)
    left |= {info.key: store.read(info.key) for info in store.list()}
    names = {key.rpartition("/")[2] for key in left}
    assert {"manifest.json", "job.json", "history.json", "model.safetensors", "train-00000.json"} <= names

    client = MlflowClient()
    run, version = client.get_run(trained["run_id"]), client.get_model_version("discreet", trained["version"])
    left["run"] = json.dumps(run.to_dictionary()).encode()
    left["version"] = json.dumps([version.description, version.tags, version.source]).encode()
    assert b"encoder_projection" in left["run"]
    artifacts = open_store("s3://mlflow")  # where the server keeps them, of models too
    left |= {info.key: artifacts.read(info.key) for info in artifacts.list()}
    assert any(run.info.run_id in key for key in left)
    assert {"MLmodel", "recipe.json", "validation.png"} <= {key.rpartition("/")[2] for key in left}

    flows = [row for row in ask_prefect(stack, "flow_runs", {}) if shards in json.dumps(row["parameters"])]
    assert {row["name"].partition(" ")[0] for row in flows} == {"preprocess", "train"}
    ids = [row["id"] for row in flows]
    mine = {"flow_runs": {"id": {"any_": ids}}}
    for path, body in (
        ("task_runs", mine),
        ("artifacts", mine),
        ("logs", {"logs": {"flow_run_id": {"any_": ids}}}),
    ):
        rows = ask_prefect(stack, path, body)
        assert rows, path
        left[f"prefect {path}"] = json.dumps(rows).encode()
    left["prefect flow runs"] = json.dumps(flows).encode()
    assert b"registered models:/discreet/1" in left["prefect logs"]

    for place, content in left.items():
        for name, secret in secrets.items():
            assert secret not in content, f"the secret of {name} is in {place}"
