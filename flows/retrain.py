"""Flow: what the schedule runs. New data → shards → a new version, up for review; no new data → nothing."""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.events import emit_event
from pydantic import BeforeValidator

from flows.assess import ensure_assessed
from flows.display.console import note
from flows.preprocess import preprocess
from flows.stack.processes import locked
from flows.tasks.plan_training import changes_since
from flows.train import train
from vitseg.config import load_layers
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.home import home
from vitseg.old_keys import current_start
from vitseg.recipes import Preset, Start, StartOrOld
from vitseg.registry import promotion, versions
from vitseg.registry.gate import PASSED, is_compared, read_gate, verdict_of
from vitseg.registry.names import check_name
from vitseg.storage import canonical
from vitseg.training.plan import recipe_digest

PROPOSED = "vitseg.version.proposed"
"""Event: a version is up for review. Automations can send a message, or start the flow `review`."""


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
    start: Annotated[Start, BeforeValidator(current_start, json_schema_input_type=StartOrOld)] = "scratch",
    gate: str | None = None,
    to: str = "",
    auto_promote: bool = False,
) -> dict[str, Any]:
    """Train again if the source or the recipe has changed, and put the new version up for review as `challenger`.

    Args:
        source: photographs and labels.
        shards: address of the shards; by default under VITSEG_HOME.
        preset: architecture and recipe.
        size: height and width of the samples, pixels.
        overrides: `section.key=value` laid over the preset.
        nproc: ranks; by default one per GPU, or 1.
        name: registered model.
        start: weights to start from; without a champion, training starts from scratch.
        gate: a TOML file of rules, where this runs; by default those of `vitseg.registry.gate`.
        to: registered model that versions are promoted to, if that is not `name`.
        auto_promote: make a version that passes the gate the champion, without asking a person; unless classes that the
            champion knows are gone, or nothing could be compared with it.
    """
    check_name(name)
    read_gate(Path(gate) if gate else None)  # so that a mistake in it fails now, not after the training
    promotion.check_target(to)
    with _one_at_a_time(name):
        place = canonical(shards or str(home() / "shards" / name))
        prepared = preprocess(source, place, size=size)
        manifest = read_manifest(place)
        known = promotion.champion_of(to or name)
        weights = known.uri if known and start == "champion" else ""
        digest = recipe_digest(load_layers(preset, None, overrides), manifest, weights)
        version = versions.find_trained(name, prepared["fingerprint"], digest)
        trained = None
        if version is None:
            for line in changes_since(known, manifest)[1] if known and to not in ("", name) else ():
                note(line)  # `train` tells of the champion of `name`
            trained = train(place, preset=preset, overrides=list(overrides), nproc=nproc, name=name, init=weights)
            version = versions.get_version(name, trained["version"])
        elif not _is_unfinished(version, auto_promote, manifest, to):
            note(f"nothing new in {source}: {version.uri} was trained on the same data")
            return {"changed": False, "preprocess": prepared, "version": version.version, "model_uri": version.uri}
        version = ensure_assessed(version, gate, to)
        verdict = verdict_of(version)
        champion = ""
        undecided = _undecided(version, manifest, to) if auto_promote and verdict == PASSED else ""
        if undecided:
            note(f"{undecided}: a person decides whether the new version takes its place")
        if auto_promote and verdict == PASSED and not undecided:
            reason = "passed the gate (auto_promote)"
            champion = promotion.promote(name, version.version, "retrain", reason, to).uri
            note(f"{champion} is the champion: {reason}")
        else:
            _propose(version, str(verdict), to)
        return {
            "changed": trained is not None,
            "preprocess": prepared,
            "version": version.version,
            "model_uri": version.uri,
            "gate": verdict,
            "train": trained,
            "champion": champion,
        }


def _one_at_a_time(name: str) -> contextlib.AbstractContextManager[None]:
    """Wait for other retrainings of this model on this machine; on others, the deployment's concurrency limit holds."""
    file = home() / "locks" / f"retrain-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    message = f"another retraining of {name} runs here: waiting for its end"
    return locked(file, patience=math.inf, on_wait=lambda: note(message))


def _undecided(version: versions.Version, manifest: Manifest, to: str) -> str:
    """Return why a version that passed the gate is not promoted without a person, if it is not."""
    champion = promotion.champion_of(to or version.name)  # of now: the training took its time
    change = changes_since(champion, manifest)[0] if champion else None
    if change and change.removed:
        return "classes of the champion are gone"
    return "" if is_compared(version) else "there was nothing to compare with the champion"


def _is_unfinished(version: versions.Version, auto_promote: bool, manifest: Manifest, to: str) -> bool:
    """Return whether the retraining that made a version ended before it proposed, or promoted, the version."""
    if version.tags.get("review") != promotion.PENDING:
        return False
    is_due = auto_promote and verdict_of(version) == PASSED
    return not version.aliases or (is_due and not _undecided(version, manifest, to))


def _propose(version: versions.Version, verdict: str, to: str) -> None:
    """Announce a version, then make it the challenger: last, so that a retraining that is cut off announces it again."""
    note(f"{version.uri} {verdict} the gate and is up for review: `{promotion.command('show', version)}`")
    emit_event(
        PROPOSED,
        resource={"prefect.resource.id": f"vitseg.model.{version.name}", "prefect.resource.name": version.uri},
        payload={"name": version.name, "version": version.version, "gate": verdict, "to": to},
    )
    promotion.propose(version)
