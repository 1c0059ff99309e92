"""Flow: what the schedule runs. New data → shards → a new version, put up for review; no new data → nothing."""

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.events import emit_event

from flows.assess import assess
from flows.choices import Preset, Start
from flows.console import note
from flows.preprocess import preprocess
from flows.review import promote
from flows.train import train
from vitseg.config import home
from vitseg.registry import review, versions

PROPOSED = "vitseg.version.proposed"
"""Event that tells that a version is up for review; automations can send a message, or start the flow `review`."""


@flow(name="retrain", flow_run_name="retrain on {source}")
def retrain(
    source: str,
    shards: str | None = None,
    preset: Preset = "tiny",
    size: tuple[int, int] = (256, 256),
    overrides: Sequence[str] = (),
    nproc: int | None = None,
    name: str = "vitseg",
    start: Start = "chance",
    gate: str | None = None,
    to: str = "",
    auto_promote: bool = False,
) -> dict[str, Any]:
    """Train again if the source has changed, and put the new version up for review as `challenger`.

    Args:
        source: photographs and labels.
        shards: where the shards go; by default under VITSEG_HOME.
        preset: architecture and recipe.
        size: height and width of the samples, pixels.
        overrides: `section.key=value` laid over the preset.
        nproc: ranks; by default one a GPU, or 1.
        name: registered model.
        start: weights to start from; where there is no champion yet, chance.
        gate: a TOML file of rules; by default those of `vitseg.registry.gate`.
        to: registered model that versions are promoted to, if that is not `name`.
        auto_promote: make a version that passes the gate the champion, without asking a person.
    """
    place = shards or str(home() / "shards" / name)
    prepared = preprocess(source, place, size=size)
    trained = next(
        (v for v in review.list_versions(name) if v.tags.get("data_fingerprint") == prepared["fingerprint"]), None
    )
    if trained is None:
        result = train(place, preset, overrides=list(overrides), nproc=nproc, name=name, init=_start(start, to or name))
        trained = versions.get_version(name, result["version"])
    elif not _has_to_go_on(trained, auto_promote):
        note(f"nothing new in {source}: {trained.uri} was trained on the same data")
        return {"changed": False, "preprocess": prepared, "version": trained.version, "model_uri": trained.uri}
    else:
        result = None
    verdict = _put_up(trained, gate, to)
    champion = ""
    if auto_promote and verdict == review.PASSED:
        champion = promote(name, trained.version, "retrain", "passed the gate (auto_promote)", to).uri
    answer = {"preprocess": prepared, "version": trained.version, "model_uri": trained.uri, "gate": verdict}
    return {"changed": result is not None, **answer, "train": result, "champion": champion}


def _start(start: str, name: str) -> str:
    """Return the address of the weights to start from; "" for chance."""
    champion = versions.alias_version(name, review.CHAMPION) if start == "champion" else None
    return champion.uri if champion else ""


def _has_to_go_on(version: versions.Version, auto_promote: bool) -> bool:
    """Say whether the run that trained a version ended before it was put up, or promoted."""
    if version.tags.get("review") != "pending":
        return False
    return not version.aliases or (auto_promote and review.verdict_of(version) == review.PASSED)


def _put_up(version: versions.Version, gate: str | None, to: str) -> str:
    """Assess a version, unless that is done, make it the challenger and tell; return what the gate said."""
    verdict = review.verdict_of(version) or assess(version.name, version.version, gate=gate, to=to)["gate"]
    review.propose(versions.get_version(version.name, version.version))
    note(f"{version.uri} {verdict} the gate and is up for review: vitseg registry show {version.version}")
    emit_event(
        PROPOSED,
        resource={"prefect.resource.id": f"vitseg.model.{version.name}", "prefect.resource.name": version.uri},
        payload={"name": version.name, "version": version.version, "gate": verdict, "to": to},
    )
    return str(verdict)
