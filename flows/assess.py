"""Flow: a version against the rules and the champion, now, on one holdout → its verdict and its page in the registry."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.compare import Measured, measure, rows_of
from flows.display.console import note
from vitseg.data.manifest import read_manifest
from vitseg.errors import UsageError
from vitseg.registry import promotion, tracking, versions
from vitseg.registry.comparison import holdout_digest
from vitseg.registry.gate import Gate, judge, passed, read_gate, rules_from, rules_text
from vitseg.registry.provenance import read_record
from vitseg.registry.review_examples import draw_examples, select_examples
from vitseg.registry.review_page import Assessment, for_other_pages, review_page

_PICTURE = "review/examples.png"


@flow(name="assess", flow_run_name="assess {name} {version}")
def assess(
    name: str, version: str, *, shards: str | None = None, gate: str | None = None, split: str = "val", to: str = ""
) -> dict[str, Any]:
    """Measure a version and the champion on the same images, apply the gate, and write the page that a reviewer reads.

    Args:
        name: registered model.
        version: its number.
        shards: data set to measure on; by default the one the version was trained on.
        gate: a TOML file of rules; by default those that it was judged by before (with `to`: that the champion there was,
            for trainers can write the tags of their candidates), or else those of `vitseg.registry.gate`.
        split: split of the data set.
        to: registered model whose champion it is set beside, if that is not `name`: the one it may be promoted to.
    """
    candidate = versions.get_version(name, version)
    champion = versions.alias_version(to or name, promotion.CHAMPION)
    if champion and promotion.is_same(champion, candidate):
        raise UsageError(f"{candidate.uri} is the champion already: there is nothing to decide")
    data = shards or candidate.tags.get("shards", "")
    if not data:
        raise UsageError(f"{candidate.uri} does not say what it was trained on: name --shards")
    rules = _rules(champion if to and to != name else candidate, gate)
    ours = measure(candidate.uri, data, split)
    theirs = measure(champion.uri, data, split) if champion else None
    rows = rows_of(theirs.evaluation, ours.evaluation) if theirs else {}
    rulings = judge(rules, ours.result, theirs.result if theirs else None, rows)
    holdout = holdout_digest(read_manifest(data), split)
    page = review_page(
        Assessment(
            candidate=candidate,
            champion=champion,
            rulings=rulings,
            rows=rows,
            found=ours.result,
            beside=theirs.result if theirs else None,
            where=f"{split} of {data}",
            holdout=holdout,
            record=read_record(candidate.run_id),
            before=read_record(champion.run_id) if champion else None,
            picture=_draw(data, split, ours, theirs, candidate.run_id),
            approved=to,
        )
    )
    promotion.record_assessment(candidate, passed(rulings), champion, holdout, page, rules_text(rules))
    create_markdown_artifact(for_other_pages(page, candidate.uri, ""), key="assessment", description=candidate.uri)
    verdict = "passed" if passed(rulings) else "failed"
    note(f"{candidate.uri} {verdict} the gate: `{promotion.command('show', candidate)}`")
    return {
        "version": version,
        "model_uri": candidate.uri,
        "gate": verdict,
        "rules": [vars(ruling) for ruling in rulings],
        "compared_to": promotion.short(champion, candidate),
        "shards": data,
        "holdout": holdout,
        "differences": {metric: {**vars(row), "sure": row.sure} for metric, row in rows.items()},
    }


def assessed(version: versions.Version, gate: str | None = None, to: str = "") -> versions.Version:
    """Return a version with a verdict against the champion of now: the one it has, or a new one."""
    champion = versions.alias_version(to or version.name, promotion.CHAMPION)
    if champion and promotion.is_same(champion, version):
        return version
    if promotion.verdict_of(version) is None or promotion.is_stale(version, champion):
        assess(version.name, version.version, gate=gate, to=to)
    return versions.get_version(version.name, version.version)


def _rules(known_to: versions.Version | None, file: str | None) -> Gate:
    """Return the rules of a file, or those of a version, or the defaults."""
    known = known_to.tags.get(promotion.RULES) if known_to else None
    return rules_from(known) if known and not file else read_gate(Path(file) if file else None)


def _draw(shards: str, split: str, ours: Measured, theirs: Measured | None, run_id: str) -> str:
    """Put pictures of the images worth a look into the version's run; return where, or nothing if there are none."""
    if ours.evaluation.images is None or not run_id:
        return ""
    chosen = select_examples(ours.evaluation.images, theirs.evaluation.images if theirs else None)
    models = [*([("champion", theirs.bundle)] if theirs else []), ("this version", ours.bundle)]
    tracking.log_picture(run_id, draw_examples(shards, split, chosen, models), _PICTURE)
    return f"get-artifact?run_uuid={run_id}&path={_PICTURE}"
