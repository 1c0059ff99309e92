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

from flows.assess import assess, assessed
from flows.display.console import note
from vitseg.errors import NotFoundError, UsageError
from vitseg.registry import promotion as registry
from vitseg.registry.review_page import for_other_pages
from vitseg.registry.versions import Version, alias_version, get_version
from vitseg.storage import without_secrets

_QUESTION = "decision"
_SOMETHING = r"\S"


class Decision(RunInput):
    """The form."""

    version: str
    decision: Literal["promote", "reject"]
    reviewer: str = Field(pattern=_SOMETHING, description="Who decides.")
    reason: str = Field(pattern=_SOMETHING, description="Why, for those who come after.")


@flow(name="review", flow_run_name="review {name} {version}")
def review(
    name: str = "vitseg", version: str = "", *, to: str = "", gate: str | None = None, days: int = 30
) -> dict[str, Any]:
    """Wait for a person's decision on a version, and carry it out as `vitseg registry promote` or `reject` would.

    The run, one of a deployment, is suspended meanwhile: no process and no place on a worker is taken.

    Args:
        name: registered model.
        version: its number; empty: the one that is up for review, `challenger`.
        to: registered model that it is promoted to, if that is not `name`.
        gate: a TOML file of rules, where the worker runs; by default those that the version was judged by before.
        days: after so many without a decision the run fails; the version stays where it is.
    """
    if not runtime.deployment.id:
        raise UsageError("the flow review waits as a deployment: `vitseg deploy` registers it")
    form = Decision  # of a run that was asked before: who answers has read the page as it was then
    if not _was_asked():
        found = _wanted(name, version)
        if found.tags.get("review") != registry.PENDING:
            return _as_it_is(found)
        if to:
            assess(name, found.version, gate=gate, to=to)  # anew: what it says of itself its trainer wrote
        found = assessed(get_version(name, found.version), gate, to)
        form = _form(found)
        create_markdown_artifact(_page(found), key="review", description=found.uri)
        note(f"{found.uri} waits for a decision: resume this flow run, or `{registry.command('promote', found, to)} …`")
    said = suspend_flow_run(wait_for_input=form, timeout=round(timedelta(days=days).total_seconds()), key=_QUESTION)
    found = get_version(name, said.version)
    if found.tags.get("review") != registry.PENDING:
        return _as_it_is(found)  # on the command line, say, while this waited
    if said.decision == "reject":
        decided = registry.reject(name, found.version, said.reviewer, said.reason)
    else:
        decided = promote(name, found.version, reviewer=said.reviewer, reason=said.reason, to=to, gate=gate)
    note(f"{decided.uri}: {decided.tags['review']} by {said.reviewer}")
    return {"decision": said.decision, "version": decided.version, "model_uri": decided.uri, "reviewer": said.reviewer}


def _form(found: Version) -> type[Decision]:
    """Return the form for one version: no other can be named in it."""
    only = Field(found.version, pattern=f"^{found.version}$", description="The version that the page above describes.")
    one = create_model("Decision", __base__=Decision, version=(str, only))
    return one.with_initial_data(description=_page(found))


def _as_it_is(found: Version) -> dict[str, Any]:
    reviewer = found.tags.get("reviewer")
    note(f"{found.uri} is {found.tags.get('review')} already, by {reviewer}: nothing is left to decide")
    return {"decision": None, "version": found.version, "model_uri": found.uri, "reviewer": reviewer}


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

    What a version says of itself was written by whoever trained it, who may not decide where there is another model to
    promote to: for that it is measured anew, now, by this process, by the rules that are given here, or else those of the
    champion there. Of what it says, only that it failed is believed.
    """
    registry.check_target(to)
    found = get_version(name, version)
    champion = alias_version(to or name, registry.CHAMPION)
    known = bool(champion and registry.is_same(champion, found)) or found.tags.get("review") == registry.REJECTED
    verdict = registry.verdict_of(found)
    if not known and (gate or shards or verdict is None or (to and verdict != registry.FAILED)):
        assess(name, version, shards=shards, gate=gate, to=to)
    return registry.promote(name, version, reviewer, reason, to)


def _was_asked() -> bool:
    """Say whether this flow run has been suspended before, and goes on now."""
    context = FlowRunContext.get()
    policy = context.flow_run.empirical_policy if context and context.flow_run else None
    return bool(policy and policy.pause_keys and _QUESTION in policy.pause_keys)


def _page(found: Version) -> str:
    server = os.environ.get("VITSEG_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    return for_other_pages(found.description, found.uri, without_secrets(server))


def _wanted(name: str, version: str) -> Version:
    if version:
        return get_version(name, version)
    found = alias_version(name, registry.CHALLENGER)
    if found is None:
        raise NotFoundError(
            f"{name} has no version up for review: name one, or see `vitseg registry list --name {name}`"
        )
    return found
