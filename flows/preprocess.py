"""Flow: source images and labels → WebDataset shards and a manifest."""

import math
import time
from contextlib import closing
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.tasks import exponential_backoff

from flows.display.console import note, pluralize, progress, warn
from flows.tasks.runners import CLUSTER_AHEAD, as_they_end, make_runner, may_pass
from vitseg.data import Layout
from vitseg.data.commit import commit, finished
from vitseg.data.manifest import Manifest, manifest_tag
from vitseg.data.pairing import SPLITS
from vitseg.data.plan import Plan, PlanOptions, ShardPlan, make_plan
from vitseg.data.shards import ShardRecord, write_shard
from vitseg.errors import EtagError, printable
from vitseg.storage import canonical, join

_NAMED = 3  # unknown colors and ids of a split that are named


@task(retries=3, retry_delay_seconds=exponential_backoff(backoff_factor=1), retry_jitter_factor=0.5,
      retry_condition_fn=may_pass, task_run_name="shard-{shard.split}-{shard.index}")  # fmt: skip
def make_shard(shard: ShardPlan, options: PlanOptions, dest: str) -> ShardRecord:
    """Write one shard, unless it is there already."""
    return write_shard(shard, options, dest)


@flow(name="preprocess", task_runner=make_runner("thread"), flow_run_name="preprocess {source}")
def preprocess(
    source: str, dest: str, *, layout: Layout = "auto", size: tuple[int, int] = (256, 256), shard_samples: int = 256
) -> dict[str, Any]:
    """Turn labeled photographs into shards; shards that are there already are kept.

    Args:
        source: folder, `s3://` or other fsspec address of the photographs and labels.
        dest: folder or `s3://` address for shards and manifest.json.
        layout: how they lie in folders; `auto` detects it.
        size: height and width of the samples, pixels.
        shard_samples: samples a shard.
    """
    start = time.monotonic()
    source, dest = canonical(source), canonical(dest)  # workers may run in other folders
    before = manifest_tag(dest)
    options: dict[str, Any] = {"layout": layout, "size": size, "shard_samples": shard_samples}
    try:
        manifest = _prepare(source, dest, before, options)
    except EtagError as error:
        note(f"{error}: hashing every source")
        manifest = _prepare(source, dest, before, {**options, "trust_etags": False})
    return _result(manifest, dest, start)


def _prepare(source: str, dest: str, before: str | None, options: dict[str, Any]) -> Manifest:
    """Plan, write the shards that are missing, and commit them; `before` is the tag of the manifest to replace."""
    with progress("reading sources", unit="objects") as show:
        plan = make_plan(source, **options, progress=show)
    with closing(plan):
        for line in plan.notes:
            note(line)
        if manifest := finished(plan, dest):
            note(
                f"nothing to do: {dest} already holds these {manifest.samples} samples "
                f"(fingerprint {plan.fingerprint[:12]})"
            )
            _note_findings(manifest)
            return manifest
        manifest = commit(plan, _make_shards(plan, dest), dest, before)
    _show(manifest)
    return manifest


def _make_shards(plan: Plan, dest: str) -> list[ShardRecord]:
    """Map the shards over the runner, some at a time: each one that waits holds the names of all its samples."""
    records: list[ShardRecord] = []
    with progress("writing shards", unit="shards") as show:
        shards = as_they_end(lambda shard: make_shard.submit(shard, plan.options, dest), plan.shards, CLUSTER_AHEAD)
        for _, future in shards:
            records.append(future.result())
            show(len(records), len(plan.shards))
    return records


def _result(manifest: Manifest, dest: str, start: float) -> dict[str, Any]:
    return {
        "manifest": join(dest, "manifest.json"),
        "fingerprint": manifest.fingerprint,
        "samples": manifest.samples,
        "skipped": len(manifest.skipped),
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "warnings": list(manifest.warnings),
        "seconds": round(time.monotonic() - start, 3),
    }


def _show(manifest: Manifest) -> None:
    rows = [
        {"split": name, "samples": split.samples, "shards": len(split.shards)}
        for name, split in manifest.splits.items()
    ]
    create_table_artifact(rows, key="shards", description=f"fingerprint {manifest.fingerprint}")
    if manifest.skipped:
        skipped = [{"source": printable(row.source), "reason": printable(row.reason)} for row in manifest.skipped[:500]]
        create_table_artifact(skipped, key="skipped", description=f"{len(manifest.skipped)} sources were left out")
    _note_findings(manifest)


def _note_findings(manifest: Manifest) -> None:
    """Note which split a training lacks, what was left out, and what is likely a mistake in the labels."""
    for split in SPLITS:
        if split not in manifest.splits and manifest.targets != "none":
            found = ", ".join(manifest.splits)
            note(f"no samples in split {split!r}, without which `vitseg train` can't start: found {found}")
    if manifest.skipped:
        first, count = manifest.skipped[0], pluralize(len(manifest.skipped), "source")
        note(f"{count} left out, for example {first.source}: {first.reason} (all in manifest.json)")
    for name, held in manifest.splits.items():
        if held.unknown_pixels:
            share = held.unknown_pixels / (held.samples * math.prod(manifest.image_size))
            most = ", ".join(f"{value}: {pixels:,}" for value, pixels in list(held.unknown.items())[:_NAMED])
            note(
                f"{share:.2%} of the label pixels in {name} have colors or ids that no class has, and don't count"
                + (f" (most often {most})" if most else "")
            )
    for line in manifest.warnings:
        warn(line)
