"""Jobs that race for one destination: one data set is there in the end, and whose it is nobody has to guess."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from vitseg.data.manifest import Manifest, manifest_tag, read_manifest
from vitseg.data.plan import Plan, make_plan
from vitseg.data.shards import commit, finished, write_shard
from vitseg.data.verify import verify
from vitseg.errors import DataError
from vitseg.storage import open_store


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
