"""What a person decides about versions: promote, reject, roll back; and what they look at before.

The alias `champion` is the only thing that inference reads, so it moves last, after everything that could fail.
"""

import datetime

from mlflow import MlflowClient

from vitseg.errors import RegistryError, UsageError
from vitseg.registry.tracking import registry_errors
from vitseg.registry.versions import Version, alias_version, fetch, get_version

CHAMPION = "champion"
CHALLENGER = "challenger"


def list_versions(name: str) -> list[Version]:
    """Return all versions, newest first."""
    with registry_errors(f"listing versions of {name}"):
        found = MlflowClient().search_model_versions(f"name = '{name.replace(chr(39), '')}'")
    versions = [get_version(name, str(version.version)) for version in found]  # a search leaves out the aliases
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def propose(version: Version) -> None:
    """Put a version up for review: it becomes `challenger`."""
    with registry_errors(f"proposing {version.uri}"):
        MlflowClient().set_registered_model_alias(version.name, CHALLENGER, version.version)


def promote(name: str, version: str, reviewer: str, reason: str) -> Version:
    """Make a version the champion: its weights are checked, who and why is written down, the alias moves last.

    Raises:
        UsageError: reviewer or reason is missing, or the version was rejected.
        RegistryError: the weights don't match their hash, or the alias did not move.
    """
    _named(reviewer, reason)
    candidate = get_version(name, version)
    if candidate.tags.get("review") == "rejected":
        raise UsageError(
            f"{candidate.uri} was rejected by {candidate.tags.get('reviewer')}: train a new version instead"
        )
    fetch(candidate)
    previous = alias_version(name, CHAMPION)
    if previous is None or previous.version != candidate.version:
        tags = {"previous_champion": previous.version if previous else "none"}
        _tag(candidate, {**tags, **_decision("approved", reviewer, reason)})
        _move_champion(candidate)
    _withdraw(candidate)
    return get_version(name, version)


def reject(name: str, version: str, reviewer: str, reason: str) -> Version:
    """Mark a version as rejected; it never becomes the champion.

    Raises:
        UsageError: reviewer or reason is missing, or the version is the champion.
    """
    _named(reviewer, reason)
    candidate = get_version(name, version)
    if CHAMPION in candidate.aliases:
        raise UsageError(f"{candidate.uri} is the champion: roll back first (`vitseg registry rollback`)")
    _tag(candidate, _decision("rejected", reviewer, reason))
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
    before = current.tags.get("previous_champion", "none")
    if before == "none":
        raise UsageError(f"{current.uri} is the first champion: there is none before it")
    target = get_version(name, before)
    if target.tags.get("review") == "rejected":
        raise UsageError(
            f"{target.uri} was the champion before, but {target.tags.get('reviewer')} rejected it: promote another one"
        )
    fetch(target)
    _tag(current, {"rolled_back_by": reviewer, "rolled_back_reason": reason, "rolled_back_at": _now()})
    _move_champion(target)
    return get_version(name, before)


def _named(reviewer: str, reason: str) -> None:
    if not reviewer.strip() or not reason.strip():
        raise UsageError("a decision needs --reviewer NAME and --reason TEXT")


def _decision(review: str, reviewer: str, reason: str) -> dict[str, str]:
    return {"review": review, "reviewer": reviewer, "review_reason": reason, "reviewed_at": _now()}


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
