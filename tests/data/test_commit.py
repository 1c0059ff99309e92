"""What makes shards a data set; and jobs that race for one destination, of which one wins."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from tests.data.generated_shards import prepare, tar_names, write_folders
from vitseg.data.commit import commit, finished
from vitseg.data.manifest import Manifest, manifest_tag, read_manifest
from vitseg.data.plan import Plan, make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.errors import DataError
from vitseg.storage import open_store


def test_a_split_without_labels_is_left_out(cityscapes, tmp_path):
    label = next((cityscapes / "gtFine/val").rglob("*.png"))
    Image.new("L", (32, 24), 3).save(label)  # "out of roi", as the official test split has it everywhere
    _, manifest = prepare(cityscapes, tmp_path / "out")
    assert list(manifest.splits) == ["train"]
    assert [row.reason for row in manifest.skipped] == ["no labeled pixel"]


def test_no_usable_source_at_all_makes_no_data_set(pairs, tmp_path):
    source = pairs(train=2, val=0)
    for path in source.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no source could be used; the first, train/"):
        prepare(source, tmp_path / "out", layout="pairs")
    assert not (tmp_path / "out/manifest.json").exists()


def test_commit_wants_every_part(pairs, tmp_path):
    plan = make_plan(str(pairs(train=6, val=1)), shard_samples=3)
    records = [write_shard(shard, plan.options, str(tmp_path / "out")) for shard in plan.shards]
    with pytest.raises(DataError, match="train-00001 is missing"):
        commit(plan, [records[0], records[2]], str(tmp_path / "out"))
    (tmp_path / "out" / records[1].shard.name).unlink()
    with pytest.raises(DataError, match=r"train-00001-.* is not there"):
        commit(plan, records, str(tmp_path / "out"))
    assert not (tmp_path / "out/manifest.json").exists()


def test_commit_does_not_depend_on_the_order_in_which_parts_end(pairs, tmp_path):
    plan = make_plan(str(pairs(train=9, val=1)), shard_samples=3)
    records = [write_shard(shard, plan.options, str(tmp_path / "out")) for shard in plan.shards]
    first = commit(plan, records, str(tmp_path / "out"))
    second = commit(plan, reversed(records), str(tmp_path / "out"))
    assert first.splits == second.splits


def test_a_finished_data_set_is_known(pairs, tmp_path):
    source, dest = pairs(), tmp_path / "out"
    plan = make_plan(str(source), size=(32, 32), shard_samples=3)
    assert finished(plan, str(dest)) is None
    _, manifest = prepare(source, dest)
    assert finished(plan, str(dest)) == manifest
    assert finished(make_plan(str(source), size=(16, 16)), str(dest)) is None
    (dest / tar_names(dest)[0]).unlink()
    assert finished(plan, str(dest)) is None


def test_a_new_label_without_photo_gets_its_row(cityscapes, tmp_path):
    _, before = prepare(cityscapes, tmp_path / "out")
    (cityscapes / "gtFine/val/ulm/ulm_000009_000019_gtFine_labelIds.png").write_bytes(b"x")
    assert finished(make_plan(str(cityscapes), size=(32, 32), shard_samples=3), str(tmp_path / "out")) is None
    _, after = prepare(cityscapes, tmp_path / "out")
    assert after.splits == before.splits
    assert len(after.skipped) == 1


def test_a_label_that_lost_its_photo_under_another_name_gets_its_row(cityscapes, tmp_path):
    orphan = cityscapes / "gtFine/val/ulm/ulm_000009_000019_gtFine_labelIds.png"
    orphan.write_bytes(b"x")
    prepare(cityscapes, tmp_path / "out")
    orphan.rename(orphan.with_name("ulm_000010_000019_gtFine_labelIds.png"))
    plan, manifest = prepare(cityscapes, tmp_path / "other")
    assert finished(plan, str(tmp_path / "out")) is None
    assert "ulm_000010" in manifest.skipped[0].source


def test_a_thing_that_is_nowhere_is_a_mistake_in_the_list(tmp_path):
    classes = [{"name": "crack", "color": [1, 2, 3], "id": 1, "train_id": 0}]
    mask = np.zeros((8, 8), np.uint8)
    mask[0] = 255
    source = write_folders(tmp_path / "cracks", [mask], classes)
    with pytest.raises(DataError, match=r"no label has a pixel of 'crack'.*need id 255"):
        prepare(source, tmp_path / "out", size=(8, 8))


@pytest.fixture(params=["folder", "bucket"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a new destination of each kind."""
    if request.param == "folder":
        return str(tmp_path / "shards")
    return f"{request.getfixturevalue('s3')}/test-{secrets.token_hex(6)}"


def race(plans: list[Plan], dest: str) -> list[Manifest | DataError]:
    """Run a job for each plan, all in step; return what each ended with."""
    together = Barrier(len(plans), timeout=60)

    def job(plan: Plan) -> Manifest | DataError:
        before = manifest_tag(dest)
        assert finished(plan, dest) is None
        together.wait()
        records = [write_shard(shard, plan.options, dest) for shard in plan.shards]
        together.wait()
        try:
            return commit(plan, records, dest, before)
        except DataError as error:
            return error

    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(job, plans))


def plans_of(source: Path, *sides: int) -> list[Plan]:
    return [make_plan(str(source), size=(side, side), shard_samples=3) for side in sides]


def test_of_two_data_sets_one_wins_and_the_other_job_is_told(pairs, dest):
    source = pairs(train=6, val=1)
    for sides in ((16, 24), (32, 40), (48, 56)):  # the first finds nothing, the others replace the one before
        plans = plans_of(source, *sides)
        ends = race(plans, dest)
        (winner,) = (end for end in ends if isinstance(end, Manifest))
        (loser,) = (end for end in ends if isinstance(end, DataError))
        won = ends.index(winner)
        assert winner.fingerprint == plans[won].fingerprint
        assert read_manifest(dest) == winner == finished(plans[won], dest)
        assert verify(dest).problems == []
        text = str(loser)
        assert (
            f"another job has put its own data set there meanwhile (7 samples, fingerprint {winner.fingerprint[:12]})"
            in text
        )
        assert open_store(dest).uri("manifest.json") in text
        assert "run `vitseg preprocess` again to replace that data set, or choose another DEST" in text
        assert len(text.splitlines()) == 1
    # The loser does as it was told: its shards are there, so that nothing but the manifest is written.
    plan, store = plans[1 - won], open_store(dest)
    shards = {info for info in store.list() if info.key.endswith(".tar")}
    before = manifest_tag(dest)
    records = [write_shard(shard, plan.options, dest) for shard in plan.shards]
    assert commit(plan, records, dest, before) == read_manifest(dest) == finished(plan, dest)
    assert {info for info in store.list() if info.key.endswith(".tar")} == shards


def test_jobs_that_make_the_same_data_set_both_succeed(pairs, dest):
    source = pairs(train=6, val=1)
    for side in (16, 24):  # the second replaces the first
        first, second = race(plans_of(source, side, side), dest)
        assert isinstance(first, Manifest)
        assert isinstance(second, Manifest)
        assert first == second == read_manifest(dest)
        assert verify(dest).problems == []


def test_a_data_set_that_was_made_meanwhile_stays(pairs, dest):
    late, early = plans_of(pairs(train=3, val=0), 16, 24)
    made = [[write_shard(shard, plan.options, dest) for shard in plan.shards] for plan in (late, early)]
    winner = commit(early, made[1], dest)
    with pytest.raises(DataError, match="another job"):
        commit(late, made[0], dest)
    assert read_manifest(dest) == winner
