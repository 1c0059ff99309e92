"""Flow: a version up for review waits for a person, who decides in a form of the Prefect UI, or on the command line."""

import os
from datetime import timedelta
from typing import Any, Literal

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.assess import assess
from flows.console import note
from vitseg.errors import NotFoundError
from vitseg.registry import review as registry
from vitseg.registry.review_page import for_other_pages
from vitseg.registry.versions import Version, alias_version, get_version
from vitseg.storage import without_secrets

_QUESTION = "decision"


class Decision(RunInput):
    """The form."""

    version: str = Field(description="The version that the page above describes.")
    decision: Literal["promote", "reject"]
    reviewer: str = Field(min_length=1, description="Who decides.")
    reason: str = Field(min_length=1, description="Why, for those who come after.")


@flow(name="review", flow_run_name="review {name} {version}")
def review(name: str = "vitseg", version: str = "", to: str = "", days: int = 30) -> dict[str, Any]:
    """Wait for a person's decision on a version, and carry it out as `vitseg registry promote` or `reject` would.

    As a deployment the run is suspended meanwhile: no process and no place on a worker is taken.

    Args:
        name: registered model.
        version: its number; empty: the one that is up for review, `challenger`.
        to: registered model that it is promoted to, if that is not `name`.
        days: after so many without a decision the run fails; the version stays where it is.
    """
    found = _wanted(name, version)
    if not _was_asked():  # who answers now has read the page as it was then
        found = _assessed(found, to)
        create_markdown_artifact(_page(found), key="review", description=found.uri)
        note(
            f"{found.uri} waits for a decision: resume this flow run, or use `vitseg registry promote {found.version}`"
        )
    wait = suspend_flow_run if runtime.deployment.id else pause_flow_run
    form = Decision.with_initial_data(description=_page(found), version=found.version)
    said = wait(wait_for_input=form, timeout=round(timedelta(days=days).total_seconds()), key=_QUESTION)
    if said.decision == "reject":
        decided = registry.reject(name, said.version, said.reviewer, said.reason)
    else:
        decided = promote(name, said.version, said.reviewer, said.reason, to)
    note(f"{decided.uri}: {decided.tags['review']} by {said.reviewer}")
    return {"decision": said.decision, "version": decided.version, "model_uri": decided.uri, "reviewer": said.reviewer}


def promote(name: str, version: str, reviewer: str, reason: str, to: str = "") -> Version:
    """Promote a version that passes the gate; one that was never assessed is assessed first, by the default rules.

    What a version says of itself was written by whoever trained it, who may not decide where there is another model to
    promote to: for that it is measured anew, now, by this process.
    """
    found = get_version(name, version)
    champion = alias_version(to or name, registry.CHAMPION)
    if champion is None or not registry.is_same(champion, found):
        unknown = found.tags.get("review") == "pending" and registry.verdict_of(found) is None
        if unknown or (to and found.tags.get("review") != "rejected"):
            assess(name, version, to=to)
    return registry.promote(name, version, reviewer, reason, to)


def _page(found: Version) -> str:
    return for_other_pages(found.description, found.uri, without_secrets(os.environ.get("MLFLOW_TRACKING_URI", "")))


def _was_asked() -> bool:
    """Say whether this flow run has been suspended before, and goes on now."""
    context = FlowRunContext.get()
    policy = context.flow_run.empirical_policy if context and context.flow_run else None
    return bool(policy and policy.pause_keys and _QUESTION in policy.pause_keys)


def _wanted(name: str, version: str) -> Version:
    if version:
        return get_version(name, version)
    found = alias_version(name, registry.CHALLENGER)
    if found is None:
        raise NotFoundError(f"{name} has no version up for review: name one, or see `vitseg registry list`")
    return found


def _assessed(found: Version, to: str) -> Version:
    """Return the version with a page that compares it with the champion of now."""
    champion = alias_version(to or found.name, registry.CHAMPION)
    if registry.verdict_of(found) is None or registry.is_stale(found, champion):
        assess(found.name, found.version, to=to)
        return get_version(found.name, found.version)
    return found
