"""What the form and the command decide, by the same function; the form itself is tested with the deployments."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.stack.stack import StackStatus
from vitseg.errors import UsageError
from vitseg.registry import promotion, versions
from vitseg.registry.gate import Gate, record_verdict

NICE = {"reviewer": "ada", "reason": "looks nice"}


def test_what_failed_by_strict_rules_is_not_promoted_by_others(candidate: versions.Version, tmp_path: Path) -> None:
    from flows.assess import assess
    from flows.review import promote

    strict, lax = tmp_path / "strict.toml", tmp_path / "lax.toml"
    strict.write_text("[always]\nmiou = 0.99\n")
    lax.write_text("[always]\nmiou = 0.0\n")
    assert assess("candidates", "1", gate=str(strict))["gate"] == "failed"
    with pytest.raises(UsageError, match="no registered model 'aproved'"):
        promote("candidates", "1", **NICE, to="aproved")
    versions.ensure_model(MlflowClient(), "approved")
    for to in ("", "approved"):
        with pytest.raises(UsageError, match="did not pass the gate"):
            promote("candidates", "1", **NICE, to=to)
    assert versions.alias_version("approved", promotion.CHAMPION) is None

    # A candidate's trainer can write its tags: for another model it is measured again, by the reviewer's rules.
    record_verdict(candidate, passed=True, champion=None, holdout="d" * 16, page="# Gate: passed", rules=Gate())
    with pytest.raises(UsageError, match="did not pass the gate"):
        promote("candidates", "1", **NICE, to="approved", gate=str(strict))
    assert promote("candidates", "1", **NICE, to="approved", gate=str(lax)).uri == "models:/approved/1"
    assert promote("candidates", "1", **NICE, to="approved").uri == "models:/approved/1"


def test_the_form_is_a_deployments(stack: StackStatus) -> None:
    from flows.review import review as flow

    with pytest.raises(UsageError, match="vitseg deploy"):
        flow("nothing", "1")
