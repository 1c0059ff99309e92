"""The commit that makes a data set of the shards of a plan.

Nothing reads a data set before `manifest.json`, which is written last of all. Where jobs race for one destination, the
first to write it wins, and the others fail with an error that says so.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from vitseg.data.findings import TOLD, label_warnings, merge
from vitseg.data.manifest import MANIFEST, Manifest, Split, read_manifest, write_manifest
from vitseg.data.plan import Plan
from vitseg.data.shards import ShardRecord
from vitseg.errors import DataError, NotFoundError
from vitseg.labels import IGNORE_INDEX, foreground_class
from vitseg.storage import Store, open_store


def commit(plan: Plan, records: Iterable[ShardRecord], dest: str, replaces: str | None = None) -> Manifest:
    """Check that every shard of the plan is there, and write the manifest that makes the data set exist.

    `records` may come in any order. `replaces` is the `manifest_tag` of the data set that was at `dest` when the job
    began, which this one may replace. Returns the manifest, or that of another job that has made the same data set meanwhile.

    Raises:
        DataError: a shard is missing, doesn't add up or has lost its tar; no source could be used; the foreground of a
            binary data set occurs nowhere; or another job has written its own data set there meanwhile.
    """
    store = open_store(dest)
    by_place = {(record.split, record.index): record for record in records}
    ordered = []
    for shard in plan.shards:
        record = by_place.get((shard.split, shard.index))
        if record is None:
            raise DataError(f"shard {shard.split}-{shard.index:05d} is missing: run `vitseg preprocess` again")
        if record.samples + len(record.skipped) != len(shard.samples):
            raise DataError(f"shard {shard.split}-{shard.index:05d} does not account for all of its sources")
        ordered.append(record)
    splits = _splits(ordered)
    skipped = [*plan.skipped, *(row for record in ordered for row in record.skipped)]
    if not splits:
        raise DataError(f"no source could be used; the first, {skipped[0].source}: {skipped[0].reason}")
    foreground = foreground_class(plan.options.labels)
    if foreground and not any(split.pixels_per_class[0] for split in splits.values()):
        hint = "" if foreground.id == IGNORE_INDEX else " (masks of 0 and 255 need id 255)"
        raise DataError(
            f"no label has a pixel of {foreground.name!r}: it is looked for as id {foreground.id} or color {foreground.color}; "
            f"correct classes.json{hint}, or the labels"
        )
    manifest = Manifest(
        fingerprint=plan.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        image_size=plan.options.image_size,
        classes=plan.options.classes,
        targets=plan.options.targets,
        splits=splits,
        skipped=tuple(skipped),
        warnings=label_warnings(
            plan.options.classes,
            {name: split.pixels_per_class for name, split in splits.items()},
            merge(record.findings for record in ordered),
        ),
    )
    if lost := _lost_shards(manifest, store):
        raise DataError(f"{store.uri(lost[0])} is not there in full: run `vitseg preprocess` again")
    if write_manifest(store, manifest, replaces):
        return manifest
    winner = read_manifest(dest)
    if winner.fingerprint != plan.fingerprint:
        raise DataError(
            f"{store.uri(MANIFEST)}: another job has put its own data set there meanwhile ({winner.samples} samples, "
            f"fingerprint {winner.fingerprint[:12]}); the shards of this job are there, too: run `vitseg preprocess` "
            "again to replace that data set, or choose another DEST"
        )
    return winner


def finished(plan: Plan, dest: str) -> Manifest | None:
    """Return the manifest at `dest` if it is the one that the plan would give and its shards are there, else None."""
    try:
        manifest = read_manifest(dest)
    except (NotFoundError, DataError):
        return None
    same = manifest.fingerprint == plan.fingerprint and set(plan.skipped) <= set(manifest.skipped)
    complete = same and manifest.samples + len(manifest.skipped) == plan.sources
    return manifest if complete and not _lost_shards(manifest, open_store(dest)) else None


def _splits(records: list[ShardRecord]) -> dict[str, Split]:
    """Add up the records of each split; a split without any sample is left out."""
    splits = {}
    for name in dict.fromkeys(record.split for record in records):
        rows = [record for record in records if record.split == name]
        pixels = tuple(map(sum, zip(*(row.pixels_per_class for row in rows), strict=True)))
        if shards := tuple(row.shard for row in rows if row.shard):
            found = merge((row.findings for row in rows), TOLD)
            samples = sum(shard.samples for shard in shards)
            splits[name] = Split(samples, pixels, shards, found.unknown_pixels, found.unknown)
    return splits


def _lost_shards(manifest: Manifest, store: Store) -> list[str]:
    """Return the names of shards that are missing or have another size; one listing a split."""
    lost = []
    for name, split in manifest.splits.items():
        sizes = {info.key: info.size for info in store.list(f"{name}-")}
        lost += [shard.name for shard in split.shards if sizes.get(shard.name) != shard.bytes]
    return lost
