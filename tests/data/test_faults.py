"""Preprocessing and reading on a store that fails now and then end as they do on one that never does."""

import os
from pathlib import Path

import pytest
import torch

from tests.faulty_store import FaultyStore, through
from vitseg.data.commit import commit
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.storage import open_store
from vitseg.synth.dataset import write_scenes

PLACE = "data-faults"  # fixed: which requests fail depends on their addresses


@pytest.fixture(scope="module")
def source(s3: str) -> str:
    address = f"{s3}/{PLACE}/scenes"
    write_scenes(address, train=30, val=4, size=(64, 32), seed=5)
    return address


def prepare(source: str, dest: str) -> dict[str, bytes]:
    """Preprocess; return what lies there, but for when the manifest was made."""
    plan = make_plan(source, size=(32, 64), shard_samples=4)
    commit(plan, [write_shard(shard, plan.options, dest) for shard in plan.shards], dest)
    store = open_store(dest)
    return {info.key: store.read(info.key) for info in store.list() if info.key != "manifest.json"}


def epoch(shards: str, cache: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Read an epoch with an empty cache."""
    batches = Batches(shards, read_manifest(shards), "train", batch_size=6, flip=True, cache=cache)
    read = list(batches.epoch(1))
    keys = [key for batch in read for key in batch.keys]
    return keys, torch.cat([batch.images for batch in read]), torch.cat([batch.labels for batch in read])


@pytest.mark.parametrize(("share", "stall"), [(0.2, 0.1)])
def test_a_store_that_fails_now_and_then_changes_neither_shards_nor_batches(
    s3: str, source: str, tmp_path: Path, share: float, stall: float
) -> None:
    good, bad = f"{s3}/{PLACE}/good-{share}", f"{s3}/{PLACE}/bad-{share}"
    undisturbed = prepare(source, good)
    keys, images, labels = epoch(good, tmp_path / "good")
    with FaultyStore(os.environ["AWS_ENDPOINT_URL_S3"], share=share, stall=stall) as proxy, through(proxy):
        disturbed = prepare(source, bad)
        read = epoch(bad, tmp_path / "bad")
    assert sum(proxy.faults.values()) > 2
    assert disturbed == undisturbed
    assert verify(bad).problems == []
    assert read[0] == keys
    assert torch.equal(read[1], images)
    assert torch.equal(read[2], labels)
