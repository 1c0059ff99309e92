"""Two users of a real server: who trains can't approve, whatever they write; who reviews can."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.stack.stack import StackStatus
from tests.registry.conftest import write_bundle
from vitseg.errors import AccessError, UsageError
from vitseg.registry import promotion, tracking, versions
from vitseg.registry.gate import Gate, record_verdict
from vitseg.registry.team import User, make_team

TRAINER, REVIEWER = User("trainer", "trains-all-night"), User("reviewer", "looks-at-pictures")
CANDIDATES, APPROVED = "streets-candidates", "streets"


@pytest.fixture
def sign_in(stack: StackStatus, monkeypatch: pytest.MonkeyPatch) -> object:
    def one(user: User) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user.name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user.password)

    return one


def test_who_trains_cannot_approve(sign_in, tmp_path: Path) -> None:
    make_team(CANDIDATES, APPROVED, User(TRAINER.name, "an-older-password"), REVIEWER)
    make_team(CANDIDATES, APPROVED, TRAINER, REVIEWER)  # again: with another password
    admin = User(os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])

    sign_in(TRAINER)
    folder = write_bundle(tmp_path / "bundle")
    run_id = tracking.start_run("trained", {}, {})
    candidate = versions.register(
        folder, name=CANDIDATES, run_id=run_id, tags={"review": "pending"}, description="page"
    )
    promotion.propose(candidate)
    record_verdict(candidate, passed=True, champion=None, holdout="d" * 16, page="# Gate: passed", rules=Gate())
    with pytest.raises(AccessError, match="refuses"):
        promotion.promote(CANDIDATES, "1", "trainer", "I like it", to=APPROVED)
    with pytest.raises(MlflowException, match="denied"):
        MlflowClient().set_registered_model_alias(APPROVED, promotion.CHAMPION, "1")
    with pytest.raises(AccessError):
        make_team(CANDIDATES, APPROVED, User("mallory", "another-password"), REVIEWER)

    sign_in(REVIEWER)
    assert versions.alias_version(APPROVED, promotion.CHAMPION) is None
    champion = promotion.promote(CANDIDATES, "1", "ada", "sees kerbs", to=APPROVED)
    assert (champion.uri, champion.aliases, champion.sha256) == (
        f"models:/{APPROVED}/1",
        ("champion",),
        candidate.sha256,
    )
    assert (champion.tags["reviewer"], champion.tags["previous_champion"]) == ("ada", "none")
    left = versions.get_version(CANDIDATES, "1")
    assert (left.aliases, left.tags["review"], left.tags["reviewer"]) == ((), "approved", "ada")
    assert versions.fetch(champion, tmp_path / "cache").name == candidate.sha256
    assert promotion.promote(CANDIDATES, "1", "ada", "again", to=APPROVED).uri == champion.uri  # no second copy

    sign_in(TRAINER)
    client = MlflowClient()
    for forbidden in (
        lambda: client.create_model_version(APPROVED, candidate.uri, run_id),
        lambda: client.set_model_version_tag(APPROVED, "1", "review", "rejected"),
        lambda: client.delete_registered_model_alias(APPROVED, promotion.CHAMPION),
        lambda: client.delete_model_version(APPROVED, "1"),
        lambda: client.update_model_version(APPROVED, "1", "not as good as mine"),
    ):
        with pytest.raises(MlflowException, match="denied"):
            forbidden()
    sign_in(admin)
    assert [version.uri for version in versions.list_versions(APPROVED)] == [champion.uri]
    assert versions.get_version(APPROVED, "1") == champion


def test_a_team_is_two_models_and_two_users_with_passwords() -> None:
    for words in (("a", "a", TRAINER, REVIEWER), ("a", "b", TRAINER, TRAINER), ("a", "b", TRAINER, User("r", ""))):
        with pytest.raises(UsageError):
            make_team(*words)
