"""The flow `preprocess`: the same bytes from every runner, and every source that can't be used has a row."""

import gc
import json
import re
import sqlite3
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.flows.command_line import vitseg
from tests.memory_s3 import memory_s3
from vitseg.data.commit import commit
from vitseg.data.manifest import Manifest, Split, read_manifest
from vitseg.data.plan import Plan, PlannedShards, PlanOptions, ShardPlan, make_plan
from vitseg.data.shards import ShardRecord, write_shard
from vitseg.errors import DataError, StorageError, UsageError
from vitseg.synth.dataset import write_scenes

pytestmark = pytest.mark.usefixtures("stack")  # Prefect reads its settings when it is imported: in the tests


OTHERS = ("process", "dask", *(("ray",) if find_spec("prefect_ray") else ()))  # Ray is large: not everybody has it


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_every_runner_writes_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    from flows.preprocess import preprocess
    from flows.tasks.runners import make_runner

    answers = {}
    for name in ("thread", *OTHERS):
        flow = preprocess.with_options(task_runner=make_runner(name, 1))
        answers[name] = flow(str(scenes), str(tmp_path / name), size=(32, 64), shard_samples=8)
    assert answers["thread"]["samples"] == 30
    assert len(written(tmp_path / "thread")) == answers["thread"]["shards"] == 4
    for name in OTHERS:
        assert answers[name]["fingerprint"] == answers["thread"]["fingerprint"]
        assert written(tmp_path / name) == written(tmp_path / "thread")
    again = preprocess(str(scenes), str(tmp_path / "thread"), size=(32, 64), shard_samples=8)
    assert {**again, "seconds": 0} == {**answers["thread"], "seconds": 0}


def test_a_job_that_another_one_overtakes_says_so(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import preprocess as module

    def overtaken(plan: Plan, records: list[ShardRecord], dest: str, *before: str | None) -> Manifest:
        other = make_plan(str(scenes), size=(16, 32))
        commit(other, [write_shard(shard, other.options, dest) for shard in other.shards], dest)
        return commit(plan, records, dest, *before)

    options = {"source": str(scenes), "dest": str(tmp_path / "shards"), "size": (32, 64)}
    with monkeypatch.context() as patch:
        patch.setattr(module, "commit", overtaken)
        with pytest.raises(DataError, match="another job has put its own data set there meanwhile"):
            module.preprocess(**options)
    assert read_manifest(str(tmp_path / "shards")).image_size == (16, 32)
    assert module.preprocess(**options)["fingerprint"] == read_manifest(str(tmp_path / "shards")).fingerprint
    assert read_manifest(str(tmp_path / "shards")).image_size == (32, 64)


def test_sources_that_can_not_be_used_are_rows_and_exit_code_4(tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "shards"
    write_scenes(str(source), train=6, val=1, size=(64, 32), seed=1)
    photos = sorted((source / "leftImg8bit" / "train").rglob("*.png"))
    labels = [
        Path(str(photo).replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit", "_gtFine_labelIds"))
        for photo in photos
    ]
    photos[0] = photos[0].rename(photos[0].with_name("line\nend \udcff_leftImg8bit.png"))
    photos[0].write_bytes(b"not a picture at all")
    photos[1].write_bytes(photos[1].read_bytes()[:-200])
    labels[2].write_bytes(photos[3].read_bytes())  # colors where ids should be
    for label in labels[4].parent.glob(f"{labels[4].name.removesuffix('_labelIds.png')}*"):
        label.unlink()
    for kind in ("gtFine_labelIds", "gtFine_color"):
        label = labels[0].with_name(labels[0].name.replace("gtFine_labelIds", kind))
        label.rename(label.with_name(photos[0].name.replace("leftImg8bit", kind)))
    (source / "leftImg8bit" / "val").rename(source / "leftImg8bit" / "valid")
    (source / "gtFine" / "val").rename(source / "gtFine" / "valid")
    labels[5].unlink()
    colors = Path(str(labels[5]).replace("_labelIds", "_color"))
    drawn = np.array(Image.open(colors).convert("RGB"))
    drawn[:8, :8] = 1, 2, 3
    Image.fromarray(drawn).save(colors)
    done = vitseg("preprocess", str(source), str(dest), "--size", "64x32", "--json")
    assert done.code == 4, done.err
    assert (done.json["samples"], done.json["skipped"]) == (3, 4)
    manifest = json.loads((dest / "manifest.json").read_text())
    reasons = {row["source"]: row["reason"] for row in manifest["skipped"]}
    hints = ["not an image", "broken", "no id image", None, "no label belongs"]
    for photo, hint in zip(photos, hints, strict=False):
        key = photo.relative_to(source).as_posix()
        assert (hint is None) == (key not in reasons)
        assert hint is None or hint in reasons[key]
    assert "Traceback" not in done.err
    assert "4 sources left out" in done.err
    assert "the split valid is taken as val" in done.err
    assert done.json["warnings"] == manifest["warnings"]
    again = vitseg("preprocess", str(source), str(dest), "--size", "64x32", "--json")
    for told in (done.err, again.err):
        assert (
            "1.56% of the label pixels in train have colors or ids that no class has, and don't count (most often"
            in told
        )
        assert "color (1, 2, 3): 64" in told
        assert "warning: no label in train has a pixel of " in told
        assert (
            f"warning: 1 label, for example of {photos[5].relative_to(source).as_posix()}: it has areas of a color"
            in told
        )
    assert (again.code, again.json["skipped"]) == (4, 4)
    assert "nothing to do" in again.err
    assert "4 sources left out, for example" in again.err


def test_a_bucket_where_some_etags_are_no_md5_gives_the_same_data_set(scenes: Path, tmp_path: Path) -> None:
    from flows.preprocess import preprocess

    expected = make_plan(str(scenes), size=(32, 64))
    with memory_s3() as server:
        server.random_etags = re.compile("train/.*_00000[3-6]_")  # not those that the plan compares
        for path in scenes.rglob("*.png"):
            server.put(f"scenes/{path.relative_to(scenes)}", path.read_bytes())
        prepared = preprocess("s3://bucket/scenes", str(tmp_path), size=(32, 64))
    assert (prepared["fingerprint"], prepared["samples"]) == (expected.fingerprint, 30)


def test_a_split_that_training_needs_is_missed_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.preprocess import _note_findings

    split = Split(1, (), ())
    for splits, missing in (
        ({"train": split}, ["val"]),
        ({"test": split}, ["train", "val"]),
        ({"train": split, "val": split}, []),
    ):
        _note_findings(
            Manifest(fingerprint="f", created="", image_size=(8, 8), classes=(), splits=splits, targets="images")
        )
        assert re.findall(r"no samples in split '(\w+)', without which", capsys.readouterr().err) == missing


def test_a_runner_that_is_not_installed_or_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tasks.runners import make_runner

    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(UsageError, match=r"pip install 'vitseg\[ray\]'"):
        make_runner("ray")
    with pytest.raises(UsageError, match="thread, process, dask, ray"):
        make_runner("spark")


def test_a_store_that_fails_for_a_moment_is_tried_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import preprocess as module

    real, calls = module.write_shard, []

    def write_shard(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise StorageError("503 SlowDown")
        return real(*arguments)

    monkeypatch.setattr(module, "write_shard", write_shard)
    answer = module.preprocess(str(scenes), str(tmp_path), size=(32, 64), shard_samples=64)
    assert (answer["samples"], len(calls)) == (30, 3)


def test_shards_are_read_from_the_plan_a_few_at_a_time(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import preprocess as module
    from flows.tasks.runners import cores

    read: list[weakref.ref[ShardPlan]] = []
    alive = []
    get, real = PlannedShards.__getitem__, module.write_shard

    def getitem(self: PlannedShards, number: int) -> ShardPlan:
        shard = get(self, number)
        read.append(weakref.ref(shard))
        return shard

    def write_shard(shard: ShardPlan, options: PlanOptions, dest: str) -> ShardRecord:
        gc.collect()  # Prefect's own cycles hold what has ended
        alive.append(sum(reference() is not None for reference in read))
        return real(shard, options, dest)

    monkeypatch.setattr(PlannedShards, "__getitem__", getitem)
    monkeypatch.setattr(module, "write_shard", write_shard)
    monkeypatch.setattr(module, "CLUSTER_AHEAD", 3)
    answer = module.preprocess(str(scenes), str(tmp_path), size=(32, 64), shard_samples=2)
    assert answer["shards"] == len(alive) == 15
    assert max(alive) <= 3 + cores()  # those that wait or run, and those that a worker is about to forget


@pytest.mark.parametrize("error", [DataError("changed since it was planned"), KeyboardInterrupt()])
def test_a_flow_that_fails_or_is_stopped_gives_its_plan_up(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from flows import preprocess as module

    plans = []

    def make_plan(*arguments: Any, **options: Any) -> Plan:
        plans.append(module_make_plan(*arguments, **options))
        return plans[0]

    def commit(*arguments: Any) -> None:
        raise error

    module_make_plan = module.make_plan
    monkeypatch.setattr(module, "make_plan", make_plan)
    monkeypatch.setattr(module, "commit", commit)
    with pytest.raises(type(error)):
        module.preprocess(str(scenes), str(tmp_path), size=(32, 64), shard_samples=64)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        plans[0].shards[0]
