"""Commands killed by SIGKILL and started again end like commands that nobody disturbed. All data is in the real S3."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.stack.stack import StackStatus
from tests.flows.command_line import COMMAND, kill_when, vitseg, wait_for
from tests.training.conftest import SMALL
from vitseg.checkpoint import checkpoint_keys, newest_checkpoint
from vitseg.data.commit import commit
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.storage import join, open_store
from vitseg.synth.dataset import write_photographs, write_scenes

pytestmark = pytest.mark.usefixtures("stack")

BUCKET = "s3://vitseg/killed"
TRAIN = ["--preset", "tiny", *(part for value in SMALL for part in ("--set", value)), "--set", "run.epochs=15"]


def count(address: str, prefix: str = "") -> int:
    return sum(1 for _ in open_store(address).list(prefix))


@pytest.fixture(scope="module")
def shards(stack: StackStatus, scenes: Path) -> str:
    """Preprocess without disturbance."""
    dest = join(BUCKET, "shards")
    assert vitseg("preprocess", str(scenes), dest, "--size", "64x32", "--shard-samples", "8").code == 0
    return dest


@pytest.fixture(scope="module")
def straight(shards: str) -> dict[str, Any]:
    """Train without disturbance."""
    return vitseg("train", shards, *TRAIN, "--nproc", "2", "--name", "straight", "--json").json


def test_preprocess(tmp_path: Path) -> None:
    write_scenes(str(tmp_path), train=60, val=20, size=(512, 256), seed=1)
    options = ["--size", "256x128", "--shard-samples", "4", "--workers", "1", "--json"]
    straight, killed = join(BUCKET, "straight"), join(BUCKET, "shattered")
    undisturbed = vitseg("preprocess", str(tmp_path), straight, *options).json
    for least in (2, 9):
        kill_when(lambda least=least: count(killed, "_vitseg/") >= least, "preprocess", str(tmp_path), killed, *options)
        assert open_store(killed).stat("manifest.json") is None
    restarted = vitseg("preprocess", str(tmp_path), killed, *options).json
    assert restarted["fingerprint"] == undisturbed["fingerprint"]
    manifests = [json.loads(open_store(dest).read("manifest.json")) for dest in (straight, killed)]
    assert manifests[0]["splits"] == manifests[1]["splits"]
    assert verify(killed).problems == []
    again = vitseg("preprocess", str(tmp_path), killed, *options)
    assert "nothing to do" in again.err


def test_train(shards: str, straight: dict[str, Any], scenes: Path) -> None:
    copy = join(BUCKET, "shards-2")
    plan = make_plan(str(scenes), size=(32, 64), shard_samples=8)
    commit(plan, [write_shard(shard, plan.options, copy) for shard in plan.shards], copy)

    def steps() -> int:
        keys = [info.key for info in open_store(join(copy, "_vitseg/training")).list() if "/step-" in info.key]
        return max((int(key.rpartition("/step-")[2][:8]) for key in keys), default=0)

    children = kill_when(lambda: steps() >= 7, "train", copy, *TRAIN, "--nproc", "2", "--name", "killed")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, f"left behind: {[process.cmdline() for process in alive]}"

    command = [*COMMAND, "train", copy, *TRAIN, "--nproc", "2", "--name", "killed", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, lambda: steps() >= 25)
        rank_of(process, 1).kill()
        out, err = process.communicate(timeout=240)
    assert "going on with an unfinished job" in err
    assert "rank 1 was killed by SIGKILL" in err
    restarted = json.loads(out)
    assert restarted["epochs"] == straight["epochs"] == 15
    assert restarted["metrics"] == pytest.approx(straight["metrics"], abs=1e-6)
    logged = [metric.step for metric in MlflowClient().get_metric_history(restarted["run_id"], "step/loss")]
    assert logged == list(range(1, 46))
    jobs = []
    for data in (shards, copy):
        root = join(data, "_vitseg/training")
        folder = next(info.key for info in open_store(root).list()).partition("/")[0]
        jobs.append(join(root, folder))
    histories = [json.loads(open_store(job).read("history.json")) for job in jobs]
    assert [row["step"] for row in histories[1]] == [row["step"] for row in histories[0]]
    for row, resumed in zip(*histories, strict=True):
        assert resumed == pytest.approx(row, abs=1e-6)
    ends = [newest_checkpoint(open_store(join(job, "checkpoints"))) for job in jobs]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, tensor in ends[0].tensors.items():
        np.testing.assert_allclose(ends[1].tensors[name].numpy(), tensor.numpy(), atol=1e-6, err_msg=name)
    assert len(checkpoint_keys(open_store(join(jobs[1], "checkpoints")))) == 2


def rank_of(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def test_a_worker_that_is_killed_takes_its_training_along() -> None:
    """As a Prefect worker starts a flow run, without a server: the run's process watches who its parent is."""
    run = "import os, time; from flows.tasks.run_training import leave_with_worker; leave_with_worker(); "
    run += "os.write(1, b'.'); time.sleep(99)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {run!r}])"
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": "0" * 32}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        children = psutil.Process(process.pid).children()
        process.kill()
        assert not psutil.wait_procs(children, timeout=20)[1]


def test_segment(straight: dict[str, Any]) -> None:
    photographs = join(BUCKET, "photographs")
    write_photographs(photographs, count=48, seed=1)
    open_store(photographs).write("broken.jpg", b"\xff\xd8\xff not much of a photograph")
    calm, killed = join(BUCKET, "masks"), join(BUCKET, "masks-2")
    options = ["--model", straight["model_uri"], "--chunk", "6", "--batch-size", "2"]
    undisturbed = vitseg("segment", photographs, calm, *options, "--json")
    assert undisturbed.code == 4
    assert undisturbed.json["listed"] == 49
    kill_when(lambda: count(killed, "camera-") >= 20, "segment", photographs, killed, *options)
    restarted = vitseg("segment", photographs, killed, *options, "--json")
    assert restarted.code == 4
    for key in ("listed", "ok", "skipped", "failed"):
        assert restarted.json[key] == undisturbed.json[key]
    for info in open_store(calm).list("camera-"):
        masks = [np.asarray(Image.open(io.BytesIO(open_store(dest).read(info.key)))) for dest in (calm, killed)]
        np.testing.assert_array_equal(*masks)
    ledgers = [rows(dest, job.json["job"]) for dest, job in ((calm, undisturbed), (killed, restarted))]
    assert ledgers[0] == ledgers[1]
    again = vitseg("segment", photographs, killed, *options, "--json").json
    assert (again["ok"], again["skipped"], again["failed"]) == (0, 48, 1)


def rows(dest: str, job: str) -> list[dict[str, object]]:
    """Return a job's ledger, but for how long things took."""
    store, found = open_store(dest), []
    for info in store.list(f"_vitseg/{job}/part-"):
        found += pq.read_table(io.BytesIO(store.read(info.key))).to_pylist()
    rounded = []
    for row in sorted(found, key=lambda row: row["key"]):
        row.pop("seconds")
        row["mean_confidence"] = row["mean_confidence"] and round(row["mean_confidence"], 4)
        row["class_fractions"] = row["class_fractions"] and [round(share, 6) for share in row["class_fractions"]]
        rounded.append(row)
    return rounded
