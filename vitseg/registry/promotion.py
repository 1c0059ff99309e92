"""What a person decides about versions: promote, reject, roll back; and what they look at before.

The alias `champion` is the only thing that inference reads, so it moves last, after everything that could fail.
"""

import datetime

from mlflow import MlflowClient

from vitseg.errors import NotFoundError, RegistryError, UsageError
from vitseg.registry.tracking import registry_errors
from vitseg.registry.versions import Version, alias_version, fetch, get_version, is_model, resolve

CHAMPION = "champion"
CHALLENGER = "challenger"
PASSED, FAILED = "passed", "failed"
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
NOBODY = "none"
_PROMOTED_TO = "promoted_to"  # tag of a version whose copy in another model was promoted: which one
RULES = "rules"
"""Tag: the rules that a version was judged by."""


def list_versions(name: str) -> list[Version]:
    """Return all versions, newest first."""
    with registry_errors(f"listing versions of {name}"):
        found = MlflowClient().search_model_versions(f"name = '{name.replace(chr(39), '')}'")
    versions = [get_version(name, str(version.version)) for version in found]  # a search leaves out the aliases
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def check_target(to: str) -> None:
    """Refuse a model to promote to that is not there: a slip of the pen must not make a second champion.

    Raises:
        UsageError: there is no such registered model.
    """
    if to and not is_model(to):
        raise UsageError(f"there is no registered model {to!r} to promote to: `vitseg registry team` makes it")


def propose(version: Version) -> None:
    """Put a version up for review: it becomes `challenger`."""
    with registry_errors(f"proposing {version.uri}"):
        MlflowClient().set_registered_model_alias(version.name, CHALLENGER, version.version)


def promote(name: str, version: str, reviewer: str, reason: str, to: str = "") -> Version:
    """Make a version the champion: its weights are checked, who and why is written down, the alias moves last.

    Args:
        name: registered model.
        version: its number.
        reviewer: who decides.
        reason: why.
        to: another registered model, which inference reads and trainers can't write: the version is copied there and
            becomes its champion. "": the champion is one of `name` itself.

    Returns:
        the version that is the champion now.

    Raises:
        UsageError: reviewer or reason is missing; the version was rejected, never assessed or did not pass the gate; or
            the champion is no longer the one it was compared with.
        RegistryError: the weights don't match their hash, or the alias did not move.
    """
    _named(reviewer, reason)
    candidate = get_version(name, version)
    if candidate.tags.get("review") == REJECTED:
        raise UsageError(
            f"{candidate.uri} was rejected by {candidate.tags.get('reviewer')}: train a new version instead"
        )
    check_target(to)
    fetch(candidate)
    previous = alias_version(to or name, CHAMPION)
    promoted = previous
    if previous is None or not is_same(previous, candidate):
        _check_assessment(candidate, previous, to)
        promoted = _copy(candidate, to) if to and to != name else candidate
        _tag(promoted, {"previous_champion": previous.version if previous else NOBODY, **_by(reviewer, reason)})
        _move_champion(promoted)
    assert promoted is not None
    for decided in {promoted.uri: promoted, candidate.uri: candidate}.values():
        if decided.tags.get("review") != APPROVED:  # said last: a promotion that was cut off is still to be done
            _tag(decided, {**({} if decided is promoted else _by(reviewer, reason)), "review": APPROVED})
    if promoted.name != name and candidate.tags.get(_PROMOTED_TO) != promoted.uri:
        _tag(candidate, {_PROMOTED_TO: promoted.uri})
    _withdraw(candidate)
    return get_version(promoted.name, promoted.version)


def reject(name: str, version: str, reviewer: str, reason: str) -> Version:
    """Mark a version as rejected; it never becomes the champion.

    Raises:
        UsageError: reviewer or reason is missing, or the version is the champion.
    """
    _named(reviewer, reason)
    candidate = get_version(name, version)
    for one in (candidate, _copy_of(candidate)):
        if one and CHAMPION in one.aliases:
            raise UsageError(
                f"{one.uri} is the champion: roll back first (`vitseg registry rollback --name {one.name}`)"
            )
    _tag(candidate, {**_by(reviewer, reason), "review": REJECTED})
    _withdraw(candidate)
    return get_version(name, version)


def rollback(name: str, reviewer: str, reason: str) -> Version:
    """Make the champion before this one the champion again.

    Raises:
        UsageError: reviewer or reason is missing, there is no champion before this one, or it was rejected since.
    """
    _named(reviewer, reason)
    current = alias_version(name, CHAMPION)
    if current is None:
        raise UsageError(f"{name} has no champion to roll back from")
    before = current.tags.get("previous_champion", NOBODY)
    if before == NOBODY:
        raise UsageError(f"{current.uri} is the first champion: there is none before it")
    target = get_version(name, before)
    if target.tags.get("review") == REJECTED:
        raise UsageError(
            f"{target.uri} was the champion before, but {target.tags.get('reviewer')} rejected it: promote another one"
        )
    fetch(target)
    _tag(current, {"rolled_back_by": reviewer, "rolled_back_reason": reason, "rolled_back_at": _now()})
    _move_champion(target)
    return get_version(name, before)


def record_assessment(
    version: Version, passed: bool, champion: Version | None, holdout: str, page: str, rules: str = ""
) -> None:
    """Write what the gate said, by which rules, and against which champion; the verdict is what a promotion asks for.

    An older one is taken back first and the new one written last: cut off in between, the version was never assessed.
    """
    tags = {"compared_to": short(champion, version), "holdout": holdout, "assessed_at": _now(), RULES: rules}
    _tag(version, {"gate": "unknown", **tags})
    with registry_errors(f"writing the page of {version.uri}"):
        MlflowClient().update_model_version(version.name, version.version, page)
    _tag(version, {"gate": PASSED if passed else FAILED})


def verdict_of(version: Version) -> str | None:
    """Return what the gate said of a version; None where nobody asked it, or an assessment was cut off."""
    found = version.tags.get("gate")
    return found if found in (PASSED, FAILED) else None


def _check_assessment(candidate: Version, champion: Version | None, to: str) -> None:
    again = f"`{command('assess', candidate, to)}`"
    verdict = verdict_of(candidate)
    if verdict is None:
        raise UsageError(f"{candidate.uri} was never assessed: {again}")
    if verdict != PASSED:
        page = f"`{command('show', candidate)}`"
        raise UsageError(
            f"{candidate.uri} did not pass the gate ({page}): train another, or judge it by other rules, with --gate"
        )
    then, now = candidate.tags.get("compared_to"), short(champion, candidate)
    if is_stale(candidate, champion):
        raise UsageError(
            f"{candidate.uri} was compared with champion {then}, but that is {now} by now: {again} once more"
        )


def is_stale(candidate: Version, champion: Version | None) -> bool:
    """Say whether a version was compared with another champion than this one."""
    return candidate.tags.get("compared_to") != short(champion, candidate)


def short(champion: Version | None, beside: Version) -> str:
    """Name a champion: return `3`, or `approved/3` where the champion is another model's; `none` where there is none."""
    if champion is None:
        return NOBODY
    return champion.version if champion.name == beside.name else f"{champion.name}/{champion.version}"


def is_same(version: Version, candidate: Version) -> bool:
    """Say whether a version is the candidate itself, or a copy of it in another registered model."""
    return (version.run_id, version.sha256) == (candidate.run_id, candidate.sha256)


def _copy(candidate: Version, to: str) -> Version:
    """Return the candidate's copy in another model; one that was made before a crash is used."""
    known = next((version for version in list_versions(to) if is_same(version, candidate)), None)
    if known and known.tags.get("review") == REJECTED:
        raise UsageError(f"{known.uri}, a copy of {candidate.uri}, was rejected by {known.tags.get('reviewer')}")
    if known is None:
        with registry_errors(f"copying {candidate.uri} to {to}"):
            copied = MlflowClient().create_model_version(
                to, candidate.uri, candidate.run_id, tags=dict(candidate.tags), description=candidate.description
            )
        known = get_version(to, str(copied.version))
    fetch(known)
    return known


def command(verb: str, version: Version, to: str = "") -> str:
    """Return what a person types to do something with a version."""
    return f"vitseg registry {verb} {version.version} --name {version.name}" + (f" --to {to}" if to else "")


def _copy_of(candidate: Version) -> Version | None:
    """Return the copy that was promoted in another model, if there is one."""
    try:
        return resolve(candidate.tags[_PROMOTED_TO])
    except (KeyError, NotFoundError, UsageError):  # never promoted elsewhere, or that copy is gone
        return None


def _named(reviewer: str, reason: str) -> None:
    if not reviewer.strip() or not reason.strip():
        raise UsageError("a decision needs --reviewer NAME and --reason TEXT")


def _by(reviewer: str, reason: str) -> dict[str, str]:
    return {"reviewer": reviewer, "review_reason": reason, "reviewed_at": _now()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _tag(version: Version, tags: dict[str, str]) -> None:
    with registry_errors(f"tagging {version.uri}"):
        for key, value in tags.items():
            MlflowClient().set_model_version_tag(version.name, version.version, key, value)


def _withdraw(version: Version) -> None:
    if CHALLENGER in version.aliases:
        with registry_errors("removing the alias challenger"):
            MlflowClient().delete_registered_model_alias(version.name, CHALLENGER)


def _move_champion(version: Version) -> None:
    with registry_errors(f"making {version.uri} the champion"):
        MlflowClient().set_registered_model_alias(version.name, CHAMPION, version.version)
    now = alias_version(version.name, CHAMPION)
    if now is None or now.version != version.version:
        raise RegistryError(
            f"the alias champion points to {now and now.uri}, not to {version.uri}: somebody moved it too"
        )
