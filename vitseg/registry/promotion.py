"""What a person decides about a version: promote, reject, roll back.

Inference reads nothing but the alias `champion`. So this alias moves last, after everything that could fail.
"""

from shlex import quote

from mlflow import MlflowClient

from vitseg.errors import NotFoundError, RegistryError, UsageError
from vitseg.registry import versions
from vitseg.registry.gate import NO_CHAMPION, PASSED, champion_tag, is_stale, verdict_of
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.names import check_optional_name
from vitseg.registry.versions import Version, get_version, set_tags, timestamp

CHAMPION, CHALLENGER = "champion", "challenger"
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
_MAX_TEXT = 5000  # characters of a tag that MLflow's database keeps
_PROMOTED_TO = "promoted_to"  # tag of a version whose copy in another model was promoted: the copy's address


def champion_of(name: str) -> Version | None:
    """Return the champion of a registered model; None: it has none."""
    return versions.alias_version(name, CHAMPION)


def check_target(to: str) -> None:
    """Refuse to promote to a model that does not exist: a typing error must not create a second champion.

    Raises:
        UsageError: there is no such registered model, or none can have this name.
    """
    if not check_optional_name(to):
        return
    try:
        with mlflow_request(f"reading {to}"):
            MlflowClient().get_registered_model(to)
    except NotFoundError as error:
        message = f"there is no registered model {to!r} to promote to: `vitseg registry team` creates it"
        raise UsageError(message) from error


def propose(version: Version) -> None:
    """Put a version up for review: move the alias `challenger` to it."""
    with mlflow_request(f"proposing {version.uri}"):
        MlflowClient().set_registered_model_alias(version.name, CHALLENGER, version.version)


def promote(name: str, version: str, reviewer: str, reason: str, to: str = "") -> Version:
    """Make a version the champion and return it: check its weights, record who decided and why, then move the alias.

    With `to`, another registered model, which inference reads and trainers can't write, the version is copied there, and
    the copy becomes its champion.

    Raises:
        UsageError: reviewer or reason is missing; the version was rejected, never assessed, or failed the gate; or the
            champion is no longer the one it was compared with.
        RegistryError: the weights don't match their hash, also in the cache, or the alias did not move.
    """
    check_decision(reviewer, reason)
    candidate = get_version(name, version)
    if candidate.tags.get("review") == REJECTED:
        raise UsageError(
            f"{candidate.uri} was rejected by {candidate.tags.get('reviewer')}: train a new version instead"
        )
    check_target(to)
    versions.fetch_checked(candidate)
    previous = champion_of(to or name)
    promoted = previous
    if previous is None or not versions.is_same(previous, candidate):
        _check_verdict(candidate, previous, to)
        promoted = _copy(candidate, to) if to and to != name else candidate
        before = previous.version if previous else NO_CHAMPION
        set_tags(promoted, {"previous_champion": before, **_decision_tags(reviewer, reason)})
        _move_champion(promoted)
    assert promoted is not None
    for decided in {promoted.uri: promoted, candidate.uri: candidate}.values():
        if decided.tags.get("review") != APPROVED:  # last: a promotion that was cut off is not yet approved
            set_tags(decided, {**({} if decided is promoted else _decision_tags(reviewer, reason)), "review": APPROVED})
    if promoted.name != name and candidate.tags.get(_PROMOTED_TO) != promoted.uri:
        set_tags(candidate, {_PROMOTED_TO: promoted.uri})
    _remove_challenger(candidate)
    return get_version(promoted.name, promoted.version)


def reject(name: str, version: str, reviewer: str, reason: str) -> Version:
    """Mark a version as rejected; it can't become the champion any more.

    Raises:
        UsageError: reviewer or reason is missing, or the version is the champion.
    """
    check_decision(reviewer, reason)
    candidate = get_version(name, version)
    for one in (candidate, _copy_of(candidate)):
        if one and CHAMPION in one.aliases:
            raise UsageError(
                f"{one.uri} is the champion: roll back first (`vitseg registry rollback --name {one.name}`)"
            )
    set_tags(candidate, {**_decision_tags(reviewer, reason), "review": REJECTED})
    _remove_challenger(candidate)
    return get_version(name, version)


def rollback(name: str, reviewer: str, reason: str) -> Version:
    """Make the previous champion the champion again.

    Raises:
        UsageError: reviewer or reason is missing, there is no previous champion, or it was rejected since.
    """
    check_decision(reviewer, reason)
    current = champion_of(name)
    if current is None:
        raise UsageError(f"{name} has no champion to roll back from")
    before = current.tags.get("previous_champion", NO_CHAMPION)
    if before == NO_CHAMPION:
        raise UsageError(f"{current.uri} is the first champion: there is none before it")
    target = get_version(name, before)
    if target.tags.get("review") == REJECTED:
        raise UsageError(
            f"{target.uri} was the champion before, but {target.tags.get('reviewer')} rejected it: promote another one"
        )
    versions.fetch_checked(target)
    set_tags(current, {"rolled_back_by": reviewer, "rolled_back_reason": reason, "rolled_back_at": timestamp()})
    _move_champion(target)
    return get_version(name, before)


def command(verb: str, version: Version, to: str = "") -> str:
    """Return the command that does something with a version: `vitseg registry VERB …`."""
    return " ".join(
        ("vitseg registry", verb, version.version, "--name", quote(version.name), *(("--to", quote(to)) if to else ()))
    )


def check_decision(reviewer: str, reason: str) -> None:
    """Refuse a decision that nobody would answer for, with a UsageError."""
    if not reviewer.strip() or not reason.strip():
        raise UsageError("a decision needs --reviewer NAME and --reason TEXT")
    if max(len(reviewer), len(reason)) > _MAX_TEXT:
        raise UsageError(f"--reviewer and --reason take {_MAX_TEXT} characters: leave something out")


def _check_verdict(candidate: Version, champion: Version | None, to: str) -> None:
    assess = f"`{command('assess', candidate, to)}`"
    verdict = verdict_of(candidate)
    if verdict is None:
        raise UsageError(f"{candidate.uri} was never assessed: {assess}")
    if verdict != PASSED:
        page = f"`{command('show', candidate)}`"
        raise UsageError(
            f"{candidate.uri} did not pass the gate ({page}): train another, or apply other rules, with --gate"
        )
    if is_stale(candidate, champion):
        then, now = candidate.tags.get("compared_to"), champion_tag(champion, candidate)
        raise UsageError(
            f"{candidate.uri} was compared with champion {then}, but the champion is {now} by now: {assess} again"
        )


def _copy(candidate: Version, to: str) -> Version:
    """Return the candidate's copy in another model; a copy that was made before a crash is used."""
    known = next((copy for copy in versions.list_versions(to) if versions.is_same(copy, candidate)), None)
    if known and known.tags.get("review") == REJECTED:
        raise UsageError(f"{known.uri}, a copy of {candidate.uri}, was rejected by {known.tags.get('reviewer')}")
    if known is None:
        with mlflow_request(f"copying {candidate.uri} to {to}"):
            copied = MlflowClient().create_model_version(
                to, candidate.uri, candidate.run_id, tags=dict(candidate.tags), description=candidate.description
            )
        known = get_version(to, str(copied.version))
    versions.fetch(known)
    return known


def _copy_of(candidate: Version) -> Version | None:
    """Return the candidate's copy that was promoted in another model, or None."""
    try:
        copy = versions.resolve(candidate.tags[_PROMOTED_TO])
        return copy if versions.is_same(copy, candidate) else None
    except (KeyError, NotFoundError, UsageError):  # never promoted elsewhere, or the copy is gone
        return None


def _decision_tags(reviewer: str, reason: str) -> dict[str, str]:
    return {"reviewer": reviewer, "review_reason": reason, "reviewed_at": timestamp()}


def _remove_challenger(version: Version) -> None:
    if CHALLENGER in version.aliases:
        with mlflow_request("removing the alias challenger"):
            MlflowClient().delete_registered_model_alias(version.name, CHALLENGER)


def _move_champion(version: Version) -> None:
    with mlflow_request(f"making {version.uri} the champion"):
        MlflowClient().set_registered_model_alias(version.name, CHAMPION, version.version)
    now = champion_of(version.name)
    if now is None or now.version != version.version:
        raise RegistryError(
            f"the alias champion points to {now and now.uri}, not to {version.uri}: somebody else moved it"
        )
