"""Decisions: who decided what and why is recorded, and the champion moves last."""

import datetime
import shlex

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.registry.conftest import ARTIFACTS, Register
from vitseg.errors import NotFoundError, RegistryError, UsageError
from vitseg.registry import promotion, versions
from vitseg.registry.gate import Gate, record_verdict
from vitseg.registry.promotion import champion_of, propose, reject, rollback
from vitseg.registry.versions import Version, alias_version, ensure_model, get_version, list_versions

WHY = ("ada", "sees kerbs")


def holder(alias: str) -> str | None:
    found = alias_version("vitseg", alias)
    return found and found.version


def assessed(version: str, passed: bool = True) -> None:
    """Record the verdict that the gate would give, against the champion of now."""
    record(get_version("vitseg", version), champion_of("vitseg"), passed)


def record(version: Version, champion: Version | None = None, passed: bool = True) -> None:
    record_verdict(version, passed=passed, champion=champion, holdout="d" * 16, page="# Gate", rules=Gate())


def promote(name: str, version: str, reviewer: str, reason: str) -> Version:
    """Promote after an assessment that passed."""
    if "champion" not in get_version(name, version).aliases:
        assessed(version)
    return promotion.promote(name, version, reviewer, reason)


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MlflowException("HTTPConnectionPool: Max retries exceeded")

    monkeypatch.setattr(MlflowClient, call, fail)


def test_promote_reject_and_rollback_in_turn(register: Register) -> None:
    assert list_versions("vitseg") == []
    for seed in range(3):
        propose(register(seed))
    assert (holder("challenger"), holder("champion")) == ("3", None)
    with pytest.raises(UsageError, match="no champion"):
        rollback("vitseg", *WHY)

    first = promote("vitseg", "1", *WHY)
    assert (first.aliases, first.tags["previous_champion"]) == (("champion",), "none")
    assert (first.tags["review"], first.tags["reviewer"], first.tags["review_reason"]) == ("approved", *WHY)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(first.tags["reviewed_at"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)
    assert holder("challenger") == "3"  # another one's
    with pytest.raises(UsageError, match="first champion"):
        rollback("vitseg", *WHY)

    third = promote("vitseg", "3", "bob", "better on cars")
    assert (third.aliases, third.tags["previous_champion"]) == (("champion",), "1")
    assert holder("challenger") is None

    with pytest.raises(UsageError, match="rollback"):
        reject("vitseg", "3", *WHY)
    propose(get_version("vitseg", "2"))
    second = reject("vitseg", "2", "eve", "blurs people")
    assert (second.tags["review"], second.tags["reviewer"], second.aliases) == ("rejected", "eve", ())
    with pytest.raises(UsageError, match="rejected by eve"):
        promote("vitseg", "2", *WHY)
    assert holder("champion") == "3"

    assert rollback("vitseg", "ada", "misses night").version == holder("champion") == "1"
    left = get_version("vitseg", "3")
    assert (left.tags["rolled_back_by"], left.tags["rolled_back_reason"]) == ("ada", "misses night")
    assert left.tags["rolled_back_at"]
    assert left.tags["reviewer"] == "bob"  # who approved stays on record
    assert promote("vitseg", "3", *WHY).aliases == ("champion",)
    reject("vitseg", "1", *WHY)
    with pytest.raises(UsageError, match="rejected"):
        rollback("vitseg", *WHY)
    assert holder("champion") == "3"
    assert [(row.version, row.aliases) for row in list_versions("vitseg")] == [
        ("3", ("champion",)), ("2", ()), ("1", ()),
    ]  # fmt: skip


def test_a_decision_needs_a_name_a_reason_and_a_version(register: Register) -> None:
    version = register(0)
    for reviewer, reason in (("", "good"), ("ada", " "), ("ada", "x" * 5001)):
        with pytest.raises(UsageError, match="--reviewer"):
            promotion.promote("vitseg", "1", reviewer, reason)
        with pytest.raises(UsageError, match="--reviewer"):
            reject("vitseg", "1", reviewer, reason)
        with pytest.raises(UsageError, match="--reviewer"):
            rollback("vitseg", reviewer, reason)
    for decide in (promotion.promote, reject):
        with pytest.raises(NotFoundError, match="registry list"):
            decide("vitseg", "2", *WHY)
    assert get_version("vitseg", "1") == version


def test_weights_that_changed_never_become_the_champion(register: Register) -> None:
    register(0)
    promote("vitseg", "1", *WHY)
    register(1)
    for weights in ARTIFACTS.rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(RegistryError):
        promote("vitseg", "2", *WHY)
    assert holder("champion") == "1"
    assert get_version("vitseg", "2").tags["review"] == "pending"


def test_weights_that_were_damaged_in_the_cache_never_become_the_champion(register: Register) -> None:
    for seed in (0, 1):
        folder = versions.fetch(register(seed))
        if seed == 0:
            promote("vitseg", "1", *WHY)
            old = folder
    weights = folder / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(RegistryError, match="delete this folder; it is then fetched anew"):
        promote("vitseg", "2", *WHY)
    weights.write_bytes(sound)
    promote("vitseg", "2", *WHY)
    (old / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match="delete this folder; it is then fetched anew"):
        rollback("vitseg", *WHY)
    assert holder("champion") == "2"


@pytest.mark.parametrize("step", ["get_registered_model", "set_model_version_tag", "set_registered_model_alias"])
def test_the_champion_moves_last(register: Register, step: str) -> None:
    propose(register(0))
    promote("vitseg", "1", *WHY)
    register(1)
    promote("vitseg", "2", *WHY)
    propose(get_version("vitseg", "1"))
    assessed("1")
    for decide in (lambda: promotion.promote("vitseg", "1", *WHY), lambda: rollback("vitseg", *WHY)):
        with pytest.MonkeyPatch.context() as broken, pytest.raises(RegistryError):
            fail_at(broken, step)
            decide()
        assert (holder("champion"), holder("challenger")) == ("2", "1")
    assert rollback("vitseg", *WHY).version == "1"


def test_a_promotion_cut_off_at_its_end_is_finished_by_the_next(register: Register) -> None:
    propose(register(0))
    with pytest.MonkeyPatch.context() as broken, pytest.raises(RegistryError):
        fail_at(broken, "delete_registered_model_alias")
        promote("vitseg", "1", *WHY)
    assert (holder("champion"), holder("challenger")) == ("1", "1")
    assert promote("vitseg", "1", "bob", "again").tags["reviewer"] == "ada"
    assert (holder("champion"), holder("challenger")) == ("1", None)


def test_an_alias_that_somebody_else_moves_meanwhile(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register(0)
    register(1)
    real = MlflowClient.set_registered_model_alias
    monkeypatch.setattr(
        promotion.MlflowClient, "set_registered_model_alias", lambda self, name, alias, _: real(self, name, alias, "1")
    )
    with pytest.raises(RegistryError, match="somebody else moved it"):
        promote("vitseg", "2", *WHY)


def test_what_was_not_assessed_or_did_not_pass_is_not_promoted(register: Register) -> None:
    register(0)
    with pytest.raises(UsageError, match="never assessed: `vitseg registry assess 1"):
        promotion.promote("vitseg", "1", *WHY)
    assessed("1", passed=False)
    with pytest.raises(UsageError, match="did not pass the gate"):
        promotion.promote("vitseg", "1", *WHY)
    assert holder("champion") is None
    assert get_version("vitseg", "1").tags["review"] == "pending"
    assessed("1")
    assert promotion.promote("vitseg", "1", *WHY).aliases == ("champion",)


def test_a_comparison_with_another_champion_is_stale(register: Register) -> None:
    for seed in range(3):
        register(seed)
    assessed("2")
    assessed("3")
    promote("vitseg", "1", *WHY)
    with pytest.raises(UsageError, match="champion none, but the champion is 1 by now"):
        promotion.promote("vitseg", "2", *WHY)
    assessed("2")
    promotion.promote("vitseg", "2", *WHY)
    with pytest.raises(UsageError, match="is 2 by now"):
        promotion.promote("vitseg", "3", *WHY)
    rollback("vitseg", *WHY)
    assert holder("champion") == "1"


def test_an_assessment_cut_off_before_its_verdict_promotes_nothing(register: Register) -> None:
    register(0)
    real, tagged = MlflowClient.set_model_version_tag, []

    def cut(self: MlflowClient, name: str, version: str, key: str, value: str) -> None:
        if (key, value) == ("gate", "passed"):
            raise MlflowException("HTTPConnectionPool: Max retries exceeded")
        tagged.append(key)
        real(self, name, version, key, value)

    assessed("1")  # an earlier one that passed
    with pytest.MonkeyPatch.context() as broken, pytest.raises(RegistryError):
        broken.setattr(MlflowClient, "set_model_version_tag", cut)
        assessed("1")
    assert tagged[0] == "gate"
    with pytest.raises(UsageError, match="never assessed"):
        promotion.promote("vitseg", "1", *WHY)


def test_a_copy_in_another_model_is_made_once_and_stays_rejected(register: Register) -> None:
    for seed in (0, 1):
        record(register(seed))
    ensure_model(MlflowClient(), "approved")
    first = promotion.promote("vitseg", "1", *WHY, to="approved")
    with pytest.raises(UsageError, match="models:/approved/1 is the champion: roll back first"):
        reject("vitseg", "1", *WHY)
    assert (first.uri, first.aliases, first.tags["previous_champion"]) == ("models:/approved/1", ("champion",), "none")
    assert promotion.promote("vitseg", "1", *WHY, to="approved").uri == first.uri
    with pytest.raises(UsageError, match=r"champion none, but the champion is approved/1 by now.*--to approved"):
        promotion.promote("vitseg", "2", *WHY, to="approved")
    record(get_version("vitseg", "2"), champion_of("approved"))
    assert promotion.promote("vitseg", "2", *WHY, to="approved").tags["previous_champion"] == "1"
    assert get_version("vitseg", "2").tags["review"] == "approved"

    rollback("approved", "ada", "misses night")
    reject("approved", "2", "eve", "blurs people")
    with pytest.raises(UsageError, match="rejected by eve"):
        promotion.promote("vitseg", "2", *WHY, to="approved")
    now = champion_of("approved")
    assert now is not None
    assert now.version == "1"


def test_an_approval_is_said_when_it_is_true(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register(0)
    assessed("1")
    with monkeypatch.context() as cut:
        fail_at(cut, "set_registered_model_alias")
        with pytest.raises(RegistryError):
            promotion.promote("vitseg", "1", *WHY)
    assert get_version("vitseg", "1").tags["review"] == "pending"  # so that who promotes by itself goes on
    assert promotion.promote("vitseg", "1", *WHY).tags["review"] == "approved"


def test_a_copy_is_no_copy_once_its_model_was_deleted_and_created_again(register: Register) -> None:
    ensure_model(MlflowClient(), "approved")
    record(register(0))
    promotion.promote("vitseg", "1", *WHY, to="approved")
    with pytest.raises(UsageError, match="models:/approved/1 is the champion"):
        reject("vitseg", "1", *WHY)
    MlflowClient().delete_registered_model("approved")
    ensure_model(MlflowClient(), "approved")
    record(register(1))
    assert promotion.promote("vitseg", "2", *WHY, to="approved").uri == "models:/approved/1"
    assert reject("vitseg", "1", *WHY).tags["review"] == "rejected"


def test_commands_on_pages_can_be_pasted_into_a_shell() -> None:
    version = Version("it's a test", "3", "0" * 64)
    words = ["vitseg", "registry", "promote", "3", "--name", "it's a test", "--to", "in use"]
    assert shlex.split(promotion.command("promote", version, "in use")) == words
