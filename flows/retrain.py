"""Flow: what the schedule runs. New data → shards → a new version, put up for review; no new data → nothing."""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.events import emit_event

from flows.assess import assessed
from flows.choices import Preset, Start
from flows.display.console import note
from flows.preprocess import preprocess
from flows.stack.processes import locked
from flows.train import fitting, train
from vitseg.config import load_recipe
from vitseg.home import home
from vitseg.registry import promotion, versions
from vitseg.registry.gate import read_gate
from vitseg.storage import canonical

PROPOSED = "vitseg.version.proposed"
"""Event that tells that a version is up for review; automations can send a message, or start the flow `review`."""


@flow(name="retrain", flow_run_name="retrain on {source}")
def retrain(
    source: str,
    *,
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
    """Train again if the source or the recipe has changed, and put the new version up for review as `challenger`.

    Args:
        source: photographs and labels.
        shards: where the shards go; by default under VITSEG_HOME.
        preset: architecture and recipe.
        size: height and width of the samples, pixels.
        overrides: `section.key=value` laid over the preset.
        nproc: ranks; by default one a GPU, or 1.
        name: registered model.
        start: weights to start from; where there is no champion yet, chance.
        gate: a TOML file of rules, where this runs; by default those of `vitseg.registry.gate`.
        to: registered model that versions are promoted to, if that is not `name`.
        auto_promote: make a version that passes the gate the champion, without asking a person.
    """
    read_gate(Path(gate) if gate else None)  # a mistake in it is told now, not after the training
    promotion.check_target(to)
    with _alone(name):
        place = canonical(shards or str(home() / "shards" / name))
        prepared = preprocess(source, place, size=size)
        recipe = fitting(load_recipe(preset, None, overrides), place).digest()
        version = _trained(name, prepared["fingerprint"], recipe)
        result = None
        if version is None:
            result = train(
                place, preset=preset, overrides=list(overrides), nproc=nproc, name=name, init=_start(start, to or name)
            )
            version = versions.get_version(name, result["version"])
        if not _has_to_go_on(version, auto_promote):
            note(f"nothing new in {source}: {version.uri} was trained on the same data")
            return {"changed": False, "preprocess": prepared, "version": version.version, "model_uri": version.uri}
        version = assessed(version, gate, to)
        verdict = promotion.verdict_of(version)
        champion = ""
        if auto_promote and verdict == promotion.PASSED:
            reason = "passed the gate (auto_promote)"
            champion = promotion.promote(name, version.version, "retrain", reason, to).uri
            note(f"{champion} is the champion: {reason}")
        else:
            _put_up(version, str(verdict), to)
        answer = {"preprocess": prepared, "version": version.version, "model_uri": version.uri, "gate": verdict}
        return {"changed": result is not None, **answer, "train": result, "champion": champion}


def _alone(name: str) -> contextlib.AbstractContextManager[None]:
    """Wait until no other retraining of this model runs here; elsewhere it is the deployment's limit that sees to that."""
    file = home() / "locks" / f"retrain-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    waits = f"another retraining of {name} runs here: waiting for its end"
    return locked(file, patience=math.inf, on_wait=lambda: note(waits))


def _start(start: str, name: str) -> str:
    """Return the address of the weights to start from; "" for chance."""
    champion = versions.alias_version(name, promotion.CHAMPION) if start == "champion" else None
    return champion.uri if champion else ""


def _trained(name: str, fingerprint: str, recipe: str) -> versions.Version | None:
    """Return the newest version of this data and this recipe: another one is somebody's experiment."""
    for version in promotion.list_versions(name):
        if (version.tags.get("data_fingerprint"), version.tags.get("recipe")) == (fingerprint, recipe):
            return version
    return None


def _has_to_go_on(version: versions.Version, auto_promote: bool) -> bool:
    """Say whether the run that trained a version ended before it was put up, or promoted."""
    if version.tags.get("review") != promotion.PENDING:
        return False
    return not version.aliases or (auto_promote and promotion.verdict_of(version) == promotion.PASSED)


def _put_up(version: versions.Version, verdict: str, to: str) -> None:
    """Tell that a version is up for review, and make it the challenger: last, for without that it is told again."""
    note(f"{version.uri} {verdict} the gate and is up for review: `{promotion.command('show', version)}`")
    emit_event(
        PROPOSED,
        resource={"prefect.resource.id": f"vitseg.model.{version.name}", "prefect.resource.name": version.uri},
        payload={"name": version.name, "version": version.version, "gate": verdict, "to": to},
    )
    promotion.propose(version)
