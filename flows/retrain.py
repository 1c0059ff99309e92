"""Flow: what the schedule runs. New data → shards → a new version, put up for review; no new data → nothing."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.assess import assess
from flows.console import note
from flows.preprocess import preprocess
from flows.train import train
from vitseg.config import home
from vitseg.registry import review, versions


@flow(name="retrain", flow_run_name="retrain on {source}")
def retrain(
    source: str,
    shards: str | None = None,
    preset: str = "tiny",
    size: tuple[int, int] = (256, 256),
    overrides: Sequence[str] = (),
    nproc: int | None = None,
    name: str = "vitseg",
) -> dict[str, Any]:
    """Train again if the source has changed, and put the new version up for review as `challenger`.

    Args:
        source: photographs and labels.
        shards: where the shards go; by default under VITSEG_HOME.
        preset: `tiny`, `small`, `base`, `vit-base` or `paper`.
        size: height and width of the samples, pixels.
        overrides: `section.key=value` laid over the preset.
        nproc: ranks; by default one a GPU, or 1.
        name: registered model.
    """
    place = shards or str(home() / "shards" / name)
    prepared = preprocess(source, place, size=size)
    trained = next(
        (v for v in review.list_versions(name) if v.tags.get("data_fingerprint") == prepared["fingerprint"]), None
    )
    if trained is not None:
        if trained.tags.get("review") == "pending" and not trained.aliases:
            _put_up(name, trained.version)  # the run that trained it ended before it could
        note(f"nothing new in {source}: {trained.uri} was trained on the same data")
        return {"changed": False, "preprocess": prepared, "version": trained.version, "model_uri": trained.uri}
    result = train(place, preset, overrides=list(overrides), nproc=nproc, name=name)
    gate = _put_up(name, result["version"])
    note(f"{result['model_uri']} {gate} the gate and is up for review: vitseg registry show {result['version']}")
    return {"changed": True, "preprocess": prepared, "train": result, "version": result["version"], "gate": gate}


def _put_up(name: str, version: str) -> str:
    """Assess a version, unless that is done, and make it the challenger; return what the gate said."""
    gate = review.verdict_of(versions.get_version(name, version)) or assess(name, version)["gate"]
    review.propose(versions.get_version(name, version))
    return gate
