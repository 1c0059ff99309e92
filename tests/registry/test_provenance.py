"""How a version came to be: written into its run once, and read back for reviews."""

import sys
from pathlib import Path

import pytest

from vitseg.data.manifest import read_manifest
from vitseg.errors import DataError
from vitseg.origin import Origin
from vitseg.registry import tracking
from vitseg.registry.provenance import (
    Provenance,
    data_fields,
    environment_fields,
    read_provenance,
    split_digest,
    write_provenance,
)

ROOT = Path(__file__).parents[2]


def test_what_was_written_is_read(sqlite: str, shards: str) -> None:
    manifest = read_manifest(shards)
    run_id = tracking.start_run("recorded", {}, {})
    assert read_provenance(run_id) is None  # as of versions from before there were records
    tracking.resume_run(run_id)
    tracking.resume_run(run_id)
    seconds, attempts = tracking.run_age(run_id)
    assert 0 <= seconds < 60
    made = Provenance(
        shards=shards, recipe="tiny-1", seed=7, init="", world_size=2, seconds=seconds, attempts=attempts, flow_run="owl",
        network_size=(28, 70), origin=Origin(family="DINOv2 ViT-S/14", license="apache-2.0"),
        **data_fields(manifest), **environment_fields(),
    )  # fmt: skip
    write_provenance(run_id, made)
    assert read_provenance(run_id) == made
    assert made.attempts == 2
    assert {name: split.samples for name, split in made.splits.items()} == {"train": 24, "val": 6}
    assert len({split.digest for split in made.splits.values()}) == 2
    shares = [made.splits["train"].share(index) for index in range(len(made.classes))]
    assert sum(shares) == pytest.approx(1)
    assert made.versions["python"] == sys.version.split()[0]
    assert read_provenance("") is None


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"splits": 3}'])
def test_a_damaged_record_is_an_error(sqlite: str, text: str) -> None:
    run_id = tracking.start_run("recorded", {}, {})
    tracking.log_text(run_id, text, "record.json")
    with pytest.raises(DataError, match=r"record\.json of run"):
        read_provenance(run_id)


def test_splits_of_the_same_samples_have_the_same_digest(shards: str) -> None:
    manifest = read_manifest(shards)
    assert split_digest(manifest, "val") == split_digest(read_manifest(shards), "val")
    assert split_digest(manifest, "val") != split_digest(manifest, "train")
