"""Flow: a version up for review waits for a person, who decides in a form of the Prefect UI, or on the command line."""

import os
from datetime import timedelta
from typing import Any, Literal

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field, create_model

from flows.assess import assess, ensure_assessed
from flows.display.console import note
from vitseg.errors import NotFoundError, UsageError
from vitseg.registry import promotion
from vitseg.registry.gate import FAILED, verdict_of
from vitseg.registry.names import check_name
from vitseg.registry.review_page import review_without_pictures
from vitseg.registry.versions import Version, alias_version, get_version, is_same
from vitseg.storage import without_secrets

_SUSPENSION = "decision"
_NOT_BLANK = r"\S"


class Decision(RunInput):
    """The form."""

    version: str
    decision: Literal["promote", "reject"]
    reviewer: str = Field(pattern=_NOT_BLANK, description="Who decides.")
    reason: str = Field(pattern=_NOT_BLANK, description="Why, for those who read it later.")


@flow(name="review", flow_run_name="review {name} {version}")
def review(
    name: str = "vitseg", version: str = "", *, to: str = "", gate: str | None = None, days: int = 30
) -> dict[str, Any]:
    """Wait for a person's decision on a version, then do what `vitseg registry promote` or `reject` would.

    The run of a deployment is suspended while it waits: it takes no process and no place on a worker.

    Args:
        name: registered model.
        version: its number; "": the one that is up for review, `challenger`.
        to: registered model that it is promoted to, if that is not `name`.
        gate: a TOML file of rules, where the worker runs; by default the rules that were last applied to the version.
        days: without a decision in so many days the run fails; the version stays as it is.
    """
    if not runtime.deployment.id:
        raise UsageError("the flow review runs as a deployment only: `vitseg deploy` registers it")
    check_name(name)
    promotion.check_target(to)
    form = Decision  # a run that goes on after its suspension keeps the form that it showed
    if not _was_suspended():
        candidate = _candidate(name, version)
        if candidate.tags.get("review") != promotion.PENDING:
            return _already_decided(candidate)
        if to:
            assess(name, candidate.version, gate=gate, to=to)  # trainers can write the tags of their candidates
        candidate = ensure_assessed(get_version(name, candidate.version), gate, to)
        form = _form(candidate)
        create_markdown_artifact(_page(candidate), key="review", description=candidate.uri)
        promote_it = promotion.command("promote", candidate, to)
        note(f"{candidate.uri} waits for a decision: resume this flow run, or `{promote_it} …`")
    timeout = round(timedelta(days=days).total_seconds())
    answer = suspend_flow_run(wait_for_input=form, timeout=timeout, key=_SUSPENSION)
    candidate = get_version(name, answer.version)
    if candidate.tags.get("review") != promotion.PENDING:
        return _already_decided(candidate)  # on the command line, while this run waited
    if answer.decision == "reject":
        decided = promotion.reject(name, candidate.version, answer.reviewer, answer.reason)
    else:
        decided = promote(name, candidate.version, reviewer=answer.reviewer, reason=answer.reason, to=to, gate=gate)
    note(f"{decided.uri}: {decided.tags['review']} by {answer.reviewer}")
    return _result(decided, answer.decision, answer.reviewer)


def promote(
    name: str,
    version: str,
    *,
    reviewer: str,
    reason: str,
    to: str = "",
    gate: str | None = None,
    shards: str | None = None,
) -> Version:
    """Promote a version that passes the gate; one that was never assessed is assessed first.

    With `to`, the verdict in a version's tags proves nothing: its trainer, who may not promote to that model, can write
    them. So the version is measured again, by the rules given here or those of the champion there. Only a failed
    verdict is believed.
    """
    check_name(name)
    promotion.check_decision(reviewer, reason)
    promotion.check_target(to)
    candidate = get_version(name, version)
    champion = promotion.champion_of(to or name)
    verdict = verdict_of(candidate)
    is_decided = candidate.tags.get("review") == promotion.REJECTED or (champion and is_same(champion, candidate))
    if not is_decided and (gate or shards or verdict is None or (to and verdict != FAILED)):
        assess(name, version, shards=shards, gate=gate, to=to)
    return promotion.promote(name, version, reviewer, reason, to)


def _candidate(name: str, version: str) -> Version:
    if version:
        return get_version(name, version)
    if challenger := alias_version(name, promotion.CHALLENGER):
        return challenger
    raise NotFoundError(f"{name} has no version up for review: name one, or see `vitseg registry list --name {name}`")


def _was_suspended() -> bool:
    """Return whether this flow run has been suspended before, and goes on now."""
    context = FlowRunContext.get()
    policy = context.flow_run.empirical_policy if context and context.flow_run else None
    return bool(policy and policy.pause_keys and _SUSPENSION in policy.pause_keys)


def _form(candidate: Version) -> type[Decision]:
    """Return the form for one version, which accepts no other."""
    only = Field(
        candidate.version, pattern=f"^{candidate.version}$", description="The version that the page above describes."
    )
    return create_model("Decision", __base__=Decision, version=(str, only)).with_initial_data(_page(candidate))


def _page(candidate: Version) -> str:
    server = os.environ.get("VITSEG_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    return review_without_pictures(candidate.description, candidate.uri, without_secrets(server))


def _already_decided(candidate: Version) -> dict[str, Any]:
    reviewer = candidate.tags.get("reviewer")
    note(f"{candidate.uri} is {candidate.tags.get('review')} already, by {reviewer}: there is nothing to decide")
    return _result(candidate, None, reviewer)


def _result(version: Version, decision: str | None, reviewer: str | None) -> dict[str, Any]:
    return {"decision": decision, "version": version.version, "model_uri": version.uri, "reviewer": reviewer}
