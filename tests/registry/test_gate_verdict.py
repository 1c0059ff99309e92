"""A verdict in a version's tags: complete or absent, and about one champion."""

import dataclasses

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.registry.conftest import Register
from vitseg.errors import RegistryError
from vitseg.registry.gate import AlwaysRules, Gate, is_compared, is_stale, record_verdict, recorded_rules, verdict_of
from vitseg.registry.versions import Version, get_version


def record(version: Version, champion: Version | None = None, passed: bool = True, compared: bool = True) -> Version:
    rules = Gate(always=AlwaysRules(miou=0.5))
    record_verdict(
        version, passed=passed, champion=champion, holdout="d" * 16, page="# Gate", rules=rules, compared=compared
    )
    return get_version(version.name, version.version)


def test_a_verdict_is_read_back_with_its_rules_and_page(register: Register) -> None:
    version = register(0)
    assert (verdict_of(version), recorded_rules(version)) == (None, None)
    passed = record(version)
    assert (verdict_of(passed), passed.description) == ("passed", "# Gate")
    assert recorded_rules(passed) == Gate(always=AlwaysRules(miou=0.5))
    assert verdict_of(record(version, passed=False)) == "failed"
    assert recorded_rules(None) is None
    assert is_compared(version)
    assert is_compared(passed)
    assert not is_compared(record(version, compared=False))


def test_a_verdict_holds_for_the_champion_that_it_was_about(register: Register) -> None:
    first, second = register(0), register(1)
    assert not is_stale(record(second), None)
    assert is_stale(record(second), first)
    assert not is_stale(record(second, first), first)
    elsewhere = Version("approved", first.version, first.sha256)
    assert is_stale(record(second, first), elsewhere)  # the same number, but of another model
    assert not is_stale(record(second, elsewhere), elsewhere)
    successor = dataclasses.replace(first, sha256="f" * 64)  # of a model that was deleted and created again
    assert is_stale(record(second, first), successor)
    MlflowClient().delete_model_version_tag("vitseg", "2", "compared_to_sha256")  # as in earlier versions of vitseg
    assert not is_stale(get_version("vitseg", "2"), first)


def test_after_a_crash_before_its_end_there_is_no_verdict(register: Register) -> None:
    version = record(register(0))
    with pytest.MonkeyPatch.context() as broken, pytest.raises(RegistryError):
        broken.setattr(MlflowClient, "update_model_version", _fail)
        record(version)
    assert verdict_of(get_version("vitseg", "1")) is None


def _fail(*arguments: object, **options: object) -> None:
    raise MlflowException("the power is gone")
