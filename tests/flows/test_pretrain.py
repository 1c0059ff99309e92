"""Photographs in a bucket → an encoder → a training that starts from it, by the commands a person types."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from flows.stack.stack import StackStatus
from tests.flows.command_line import vitseg
from tests.training.conftest import SMALL
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.errors import UsageError
from vitseg.registry import tracking
from vitseg.storage import open_store
from vitseg.synth.dataset import write_photographs
from vitseg.training.job import read_job
from vitseg.training.start_address import read_start
from vitseg.training.worker import train_rank

ALONE = World(0, 1, torch.device("cpu"))
OPTIONS = [part for value in [*SMALL, "masked.decoder_width=32"] for part in ("--set", value)]


def ask(path: str, **filters: Any) -> list[dict[str, Any]]:
    """Ask the Prefect server itself."""
    user, _, password = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    answer = httpx.post(f"{os.environ['PREFECT_API_URL']}/{path}", json=filters, auth=(user, password))
    return answer.raise_for_status().json()


def test_a_bucket_of_photographs_is_all_it_needs(
    stack: StackStatus, sqlite: str, s3: str, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = f"{s3}/unlabeled"
    write_photographs(photographs, count=20, seed=2)
    open_store(photographs).write("notes.txt", b"Not everything in a bucket is a photograph.")
    command = ["pretrain", photographs, "--shards", f"{s3}/unlabeled-shards", "--size", "64x32", *OPTIONS]
    done = vitseg(*command, "--epochs", "2", "--nproc", "2", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found.keys() == {"run_id", "encoder", "epochs", "seconds", "loss"}
    assert (found["epochs"], found["encoder"].startswith(f"{s3}/unlabeled-shards/_vitseg/pretraining/")) == (2, True)
    assert 0 < found["loss"] < 2
    manifest = read_manifest(f"{s3}/unlabeled-shards")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 19, "val": 1}

    client = tracking.MlflowClient()
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/loss"] == pytest.approx(found["loss"])
    assert [row.step for row in client.get_metric_history(found["run_id"], "val/loss")] == [2, 4]
    pictures = {row.path for folder in ("panels", "pictures") for row in client.list_artifacts(found["run_id"], folder)}
    assert pictures == {"panels/epoch-0002.png", "pictures/curves.png"}

    measured = {
        "step/tflops",
        "step/flops_utilization",
        "throughput/matrix_tflops",
        "system/cpu_utilization_percentage",
    }
    assert measured <= run.data.metrics.keys()
    assert 0 < run.data.metrics["step/flops_utilization"] < 1
    assert "of what matrix products reach here" in done.err
    key = "training-" + run.data.tags["vitseg.job"].rpartition("/")[2]
    (shown,) = ask("artifacts/filter", artifacts={"key": {"any_": [key]}})
    assert (shown["type"], shown["data"]) == ("progress", 100.0)
    assert "epoch 2/2" in shown["description"]
    (flow_run,) = ask("flow_runs/filter", flow_runs={"id": {"any_": [shown["flow_run_id"]]}})
    assert flow_run["name"] == f"pretrain tiny on {photographs}"

    # The rest in this process, for ranks have tests of their own.
    from flows.pretrain import pretrain
    from flows.tasks import run_training
    from flows.train import train

    monkeypatch.setattr(run_training, "run_ranks", lambda folder, nodes, **options: train_rank(folder, ALONE))
    small = [*SMALL, "run.epochs=1"]
    overrides = [*SMALL, "masked.decoder_width=32", "run.epochs=2"]
    assert pretrain(f"{s3}/unlabeled-shards", overrides=overrides) == found  # the shards name the same job

    start = f"runs:/{found['run_id']}"
    more = pretrain(f"{s3}/unlabeled-shards", overrides=[*overrides, "run.seed=1"], init=start)
    assert client.get_run(more["run_id"]).data.params["init"] == start
    assert read_start(more["encoder"]).sha256 != read_start(start).sha256

    trained = train(shards, overrides=small, name="started", init=start)
    run = client.get_run(trained["run_id"])
    assert run.data.params["init"] == start
    job = read_job(run.data.tags["vitseg.job"])
    assert job is not None
    assert (job.init, job.init_sha256) == (start, run.data.params["init.sha256"])
    weights = read_start(start).sha256  # of the file: what is fitted from it may differ in its last bits by machine
    assert run.data.tags["vitseg.job"].endswith(f"-{weights[:12]}")


def test_what_pretraining_and_training_refuse(
    stack: StackStatus, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli.app import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"x")
    for arguments, hint in [
        (["pretrain", shards, "--size", "64x32"], "leave out --shards and --size"),
        (["pretrain", ".", "--set", "masked.ratio=2"], "masked.ratio"),
        (["train", shards, "--init", "weights.pth"], "can run code"),
        (["pretrain", shards, "--init", "weights.pth"], "can run code"),
        (["train", shards, "--init", "hf:nobody"], "hf:OWNER/NAME"),
    ]:
        with pytest.raises(UsageError) as caught:
            app(arguments)
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)
