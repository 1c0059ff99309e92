"""Flow: a version against the gate's rules and the champion, on one holdout → its verdict and its page in the registry."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.compare import differences_to_json, model_differences
from flows.display.console import note
from flows.evaluate import EvaluatedModel, evaluate_model, over_shared_classes
from vitseg.class_change import class_change
from vitseg.data.manifest import read_manifest
from vitseg.errors import UnrelatedClassesError, UsageError
from vitseg.registry import gate as gates
from vitseg.registry import promotion
from vitseg.registry.names import check_name
from vitseg.registry.provenance import read_provenance, split_digest
from vitseg.registry.review_examples import log_examples, select_examples
from vitseg.registry.review_page import Assessment, review_page, review_without_pictures
from vitseg.registry.versions import Version, get_version, is_same, shards_of


@flow(name="assess", flow_run_name="assess {name} {version}")
def assess(
    name: str, version: str, *, shards: str | None = None, gate: str | None = None, split: str = "val", to: str = ""
) -> dict[str, Any]:
    """Measure a version and the champion on the same images, apply the gate, and write the page that a reviewer reads.

    Args:
        name: registered model.
        version: its number.
        shards: data set to measure on; by default the one that the version was trained on.
        gate: a TOML file of rules. By default the rules that were last applied to the version (with `to`: to the champion
            there, because trainers can write the tags of their candidates), or else those of `vitseg.registry.gate`.
        split: split of the data set.
        to: registered model that the version may be promoted to, if not `name`: it is compared with the champion there.
    """
    check_name(name)
    promotion.check_target(to)
    candidate = get_version(name, version)
    champion = promotion.champion_of(to or name)
    if champion and is_same(champion, candidate):
        raise UsageError(f"{candidate.uri} is the champion already: there is nothing to decide")
    data = shards or shards_of(candidate)
    known = champion if to and to != name else candidate
    rules = gates.read_gate(Path(gate)) if gate else gates.recorded_rules(known) or gates.Gate()
    ours = evaluate_model(candidate.uri, data, split, keep_images=True)
    pair = _beside_champion(champion, ours, data, split) if champion else None
    theirs = pair[0].evaluation if pair else None
    changes = model_differences(*pair) if pair else {}
    results = gates.apply_rules(rules, ours.evaluation, theirs, changes)
    holdout = split_digest(read_manifest(data), split)
    page = review_page(
        Assessment(
            candidate=candidate,
            champion=champion,
            rules=results,
            changes=changes,
            evaluation=ours.evaluation,
            champion_evaluation=theirs,
            data=f"{split} of {data}",
            holdout=holdout,
            provenance=read_provenance(candidate.run_id),
            champion_provenance=read_provenance(champion.run_id) if champion else None,
            picture=_log_examples(candidate, data, split, ours, pair[0] if pair else None),
            target=to,
            class_change=class_change(pair[0].class_names, ours.class_names) if pair else None,
            image_sizes=tuple(model.bundle.image_size for model in pair) if pair else (),
        )
    )
    passed = gates.all_passed(results)
    compared = champion is None or (pair is not None and (not changes or changes["miou"].low is not None))
    gates.record_verdict(
        candidate, passed=passed, champion=champion, holdout=holdout, page=page, rules=rules, compared=compared
    )
    create_markdown_artifact(
        review_without_pictures(page, candidate.uri, ""), key="assessment", description=candidate.uri
    )
    word = gates.PASSED if passed else gates.FAILED
    note(f"{candidate.uri} {word} the gate: `{promotion.command('show', candidate)}`")
    return {
        "version": version,
        "model_uri": candidate.uri,
        "gate": word,
        "rules": [vars(result) for result in results],
        "compared_to": gates.champion_tag(champion, candidate),
        "shards": data,
        "holdout": holdout,
        "differences": differences_to_json(changes),
    }


def ensure_assessed(version: Version, gate: str | None = None, to: str = "") -> Version:
    """Return a version with a verdict against today's champion; assess it if it has none."""
    champion = promotion.champion_of(to or version.name)
    if champion and is_same(champion, version):
        return version
    if gates.verdict_of(version) is None or gates.is_stale(version, champion):
        assess(version.name, version.version, gate=gate, to=to)
    return get_version(version.name, version.version)


def _beside_champion(
    champion: Version, ours: EvaluatedModel, shards: str, split: str
) -> tuple[EvaluatedModel, EvaluatedModel] | None:
    """Return champion and version over the classes that both know; None: they can't be compared, as they share none."""
    try:
        theirs = evaluate_model(champion.uri, shards, split, keep_images=True, precision=ours.precision)
        return over_shared_classes(theirs, ours)
    except UnrelatedClassesError as error:
        note(f"the champion {champion.uri} is not compared: {error}")
        return None


def _log_examples(
    candidate: Version, shards: str, split: str, ours: EvaluatedModel, champions: EvaluatedModel | None
) -> str:
    """Store the examples in the version's run, and return the picture's address; "": there are no classes, or no run."""
    if ours.evaluation.images is None or not candidate.run_id:
        return ""
    selected = select_examples(ours.evaluation.images, champions.evaluation.images if champions else None)
    models = {"champion": champions.bundle} if champions else {}
    return log_examples(candidate.run_id, shards, split, selected, {**models, "this version": ours.bundle})
