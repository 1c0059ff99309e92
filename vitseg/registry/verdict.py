"""The gate's verdict on a version, in its tags: passed or failed, by which rules, against which champion."""

from mlflow import MlflowClient

from vitseg.registry.gate import Gate, rules_from_json, rules_to_json
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.versions import Version, set_tags, timestamp

PASSED, FAILED = "passed", "failed"
NO_CHAMPION = "none"
_UNKNOWN = "unknown"
_RULES = "rules"  # tag: the gate's rules, as JSON


def record_verdict(
    version: Version, *, passed: bool, champion: Version | None, holdout: str, page: str, rules: Gate
) -> None:
    """Write a verdict into a version's tags, and the review page into its description.

    The old verdict is removed first and the new one is written last: after a crash in between there is none.

    Args:
        version: the version that was assessed.
        passed: whether it satisfies all rules.
        champion: the version that it was compared with; None: there was none.
        holdout: digest of the images.
        page: the review page.
        rules: the rules that were applied.
    """
    tags = {"compared_to": champion_tag(champion, version), "holdout": holdout, "assessed_at": timestamp()}
    set_tags(version, {"gate": _UNKNOWN, **tags, _RULES: rules_to_json(rules)})
    with mlflow_request(f"writing the page of {version.uri}"):
        MlflowClient().update_model_version(version.name, version.version, page)
    set_tags(version, {"gate": PASSED if passed else FAILED})


def verdict_of(version: Version) -> str | None:
    """Return `passed` or `failed`; None where the version was never assessed, or not to the end."""
    found = version.tags.get("gate")
    return found if found in (PASSED, FAILED) else None


def recorded_rules(version: Version | None) -> Gate | None:
    """Return the rules that were last applied to a version; None: it was never assessed."""
    text = version.tags.get(_RULES) if version else None
    return rules_from_json(text) if text else None


def is_stale(version: Version, champion: Version | None) -> bool:
    """Return whether a version was compared with another champion than this one."""
    return version.tags.get("compared_to") != champion_tag(champion, version)


def champion_tag(champion: Version | None, version: Version) -> str:
    """Return a champion as a tag of `version`: `3`, `approved/3` where it belongs to another model, `none`."""
    if champion is None:
        return NO_CHAMPION
    return champion.version if champion.name == version.name else f"{champion.name}/{champion.version}"
