"""How a version came to be, written once into its run and read back by whoever reviews it or what follows it."""

import sys
from pathlib import Path

import pytest

from vitseg.data.manifest import read_manifest
from vitseg.errors import DataError
from vitseg.registry import tracking
from vitseg.registry.provenance import Record, data_of, machine, read_record, write_record

ROOT = Path(__file__).parents[2]


def test_what_was_written_is_read(sqlite: str, shards: str) -> None:
    manifest = read_manifest(shards)
    run_id = tracking.start_run("recorded", {}, {})
    assert read_record(run_id) is None  # as those of versions from before there were records
    tracking.resume_run(run_id)
    tracking.resume_run(run_id)
    seconds, attempts = tracking.run_age(run_id)
    assert 0 <= seconds < 60
    made = Record(
        shards=shards, recipe="tiny-1", seed=7, init="", world_size=2, seconds=seconds, attempts=attempts, flow_run="owl",
        **data_of(manifest), **machine(),
    )  # fmt: skip
    write_record(run_id, made)
    assert read_record(run_id) == made
    assert made.attempts == 2
    assert {name: split.samples for name, split in made.splits.items()} == {"train": 24, "val": 6}
    assert len({split.digest for split in made.splits.values()}) == 2
    shares = [made.splits["train"].share(index) for index in range(len(made.classes))]
    assert sum(shares) == pytest.approx(1)
    assert made.versions["python"] == sys.version.split()[0]
    assert read_record("") is None


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"splits": 3}'])
def test_a_record_that_was_tampered_with_is_told(sqlite: str, text: str) -> None:
    run_id = tracking.start_run("recorded", {}, {})
    tracking.log_text(run_id, text, "record.json")
    with pytest.raises(DataError, match=r"record\.json of run"):
        read_record(run_id)
