"""What the schedule runs: trains when the source has changed, and then asks for a review; else nothing."""

import dataclasses
import importlib
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from flows.stack.stack import StackStatus
from tests.training.conftest import SMALL, small_recipe
from vitseg.class_change import ClassChange
from vitseg.dist import World
from vitseg.errors import NotFoundError, UsageError, VitsegError
from vitseg.labels import Label, train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.recipe import RecipeRequest
from vitseg.registry.versions import Version

OVERRIDES = [*SMALL, "run.epochs=1"]


@pytest.fixture
def trainings(stack: StackStatus, sqlite: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the folders of jobs that are trained; in this process, for ranks have tests of their own.

    Prefect is the server's; MLflow is a database, for each of many requests to its server takes 0.1 s.
    """
    from flows.tasks import run_training
    from vitseg.training.worker import train_rank

    folders: list[str] = []

    def run_ranks(folder: str, nodes: object, **options: Any) -> None:
        folders.append(folder)
        train_rank(folder, World(0, 1, torch.device("cpu")))

    monkeypatch.setattr(run_training, "run_ranks", run_ranks)
    return folders


def test_only_new_data_is_trained_and_put_up_for_review(
    trainings: list[str], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import retrain
    from vitseg.registry import promotion, versions

    source = tmp_path / "source"
    shutil.copytree(scenes, source)

    def run(gate: Path | None = None) -> dict[str, Any]:
        place, rules = str(tmp_path / "shards"), gate and str(gate)
        return retrain(str(source), shards=place, size=(32, 64), overrides=OVERRIDES, name="scheduled", gate=rules)

    def challenger() -> str | None:
        found = versions.alias_version("scheduled", promotion.CHALLENGER)
        return found and found.version

    def refuse(version: versions.Version) -> None:
        raise VitsegError("the power is gone")

    with pytest.MonkeyPatch.context() as cut, pytest.raises(VitsegError, match="the power is gone"):
        cut.setattr(promotion, "propose", refuse)
        run()
    assert (challenger(), len(trainings)) == (None, 1)
    assert run()["version"] == "1"  # what was trained before the cut is put up now
    assert (challenger(), len(trainings)) == ("1", 1)

    again = run()
    assert (again["changed"], again["version"], challenger(), len(trainings)) == (False, "1", "1", 1)
    assert versions.alias_version("scheduled", promotion.CHAMPION) is None  # that is for a person to decide
    promotion.reject("scheduled", "1", "ada", "blurs people")
    assert run()["changed"] is False
    assert challenger() is None  # what was rejected does not come back by itself

    photo = next((source / "leftImg8bit" / "train").rglob("*.png"))
    photo.unlink()
    new = run()
    assert (new["changed"], new["version"], challenger(), len(trainings)) == (True, "2", "2", 2)
    assert new["train"]["epochs"] == 1

    first = versions.get_version("scheduled", "2")
    assert (first.tags["gate"], first.tags["compared_to"]) == ("passed", "none")
    assert first.description.startswith("# Gate: passed")
    assert "# Training summary" in first.description
    promotion.promote("scheduled", "2", "ada", "the first one")
    next((source / "leftImg8bit" / "train").rglob("*.png")).unlink()
    from flows import assess

    strict, rules = tmp_path / "strict.toml", tmp_path / "gate.toml"
    strict.write_text("[always]\nmiou = 0.99\n")
    rules.write_text("[champion]\nslower = 100\nclass_drop = 1.0\n")  # a busy machine decides nothing here
    assert run(strict)["gate"] == "failed"
    third = versions.get_version("scheduled", "3")
    assert (third.tags["gate"], third.tags["compared_to"], challenger()) == ("failed", "2", "3")
    assert third.description.startswith("# Gate: FAILED")
    assert "| mIoU&ensp; | 0." in third.description  # with its interval
    assert [file.path for file in MlflowClient().list_artifacts(third.run_id, "review")] == ["review/examples.png"]
    with pytest.raises(UsageError, match="did not pass the gate"):
        promotion.promote("scheduled", "3", "ada", "looks nice")
    assert assess.assess("scheduled", "3")["gate"] == "failed"  # by the rules of the last time
    assert assess.assess("scheduled", "3", gate=str(rules))["gate"] == "passed"
    assert versions.get_version("scheduled", "3").description.count("# Training summary") == 1
    assert promotion.promote("scheduled", "3", "ada", "good enough").aliases == ("champion",)
    with pytest.raises(UsageError, match="is the champion already"):
        assess.assess("scheduled", "3")


def test_retrainings_of_one_model_wait_for_each_other(sqlite: str, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.retrain import _one_at_a_time

    order = []

    def second() -> None:
        with _one_at_a_time("shared"):
            order.append("second")

    with _one_at_a_time("shared"):
        with _one_at_a_time("another"):  # is in nobody's way
            waiting = threading.Thread(target=second)
            waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    assert capsys.readouterr().err.count("another retraining of shared runs here") == 1


def test_it_starts_from_the_champion_and_promotes_by_itself_only_if_told(
    trainings: list[str], scenes: Path, tmp_path: Path
) -> None:
    from flows.retrain import retrain
    from vitseg.registry import promotion, versions
    from vitseg.registry.provenance import read_provenance

    source = tmp_path / "source"
    shutil.copytree(scenes, source)
    rules = tmp_path / "gate.toml"
    rules.write_text("[champion]\nslower = 100\nclass_drop = 1.0\n")  # a busy machine decides nothing here

    def run(**options: Any) -> dict[str, Any]:
        place = str(tmp_path / "shards")
        options = {"name": "unasked", "to": "approved", "start": "champion", "gate": str(rules), **options}
        return retrain(str(source), shards=place, size=(32, 64), overrides=OVERRIDES, **options)

    with pytest.raises(NotFoundError, match=r"nowhere\.toml"):  # before anything is trained
        run(gate="nowhere.toml")
    with pytest.raises(UsageError, match="no registered model 'approved'"):  # a slip must not make a second champion
        run(auto_promote=True)
    versions.ensure_model(MlflowClient(), "approved")
    first = run(auto_promote=True)
    assert (first["gate"], first["champion"]) == ("passed", "models:/approved/1")
    assert versions.find_trained("unasked", first["preprocess"]["fingerprint"], "somebody's experiment") is None
    assert versions.alias_version("unasked", promotion.CHALLENGER) is None
    record = read_provenance(versions.get_version("unasked", "1").run_id)
    assert record is not None
    assert (record.init, record.world_size, record.attempts) == ("", 1, 1)  # there was no champion to start from
    assert record.fingerprint == first["preprocess"]["fingerprint"]

    next((source / "leftImg8bit" / "train").rglob("*.png")).unlink()
    second = run()
    assert (second["changed"], second["champion"], len(trainings)) == (True, "", 2)
    challenger = versions.alias_version("unasked", promotion.CHALLENGER)
    assert challenger is not None
    assert challenger.version == second["version"]
    assert challenger.tags["compared_to"] == "approved/1"
    record = read_provenance(challenger.run_id)
    assert record is not None
    assert record.init == "models:/approved/1"
    for text in (
        "models:/approved/1",
        "--to approved",
        "| train&ensp; | 23&ensp; | 24&ensp; |",
        "# Provenance",
        "# Known limitations",
    ):
        assert text in challenger.description

    promoted = run(auto_promote=True)  # the same data again: what passed meanwhile is promoted
    assert (promoted["changed"], promoted["champion"], len(trainings)) == (False, "models:/approved/2", 2)
    champion = versions.alias_version("approved", promotion.CHAMPION)
    assert champion is not None
    assert (champion.tags["previous_champion"], champion.tags["reviewer"]) == ("1", "retrain")
    assert promotion.rollback("approved", "ada", "misses night").version == "1"


@pytest.mark.parametrize(
    ("removed", "tags", "told"),
    [
        ((), {}, ""),
        (("kerb",), {}, "classes of the champion are gone"),
        ((), {"compared": "no"}, "there was nothing to compare with the champion"),
    ],
)
def test_only_what_was_compared_with_the_champion_of_now_is_promoted_without_a_person(
    removed: tuple[str, ...],
    tags: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = importlib.import_module("flows.retrain")
    champions: list[Version] = []  # somebody promotes one during the training
    promoted, proposed = [], []
    mine = Version("moving", "2", "b" * 64, tags={"gate": "passed", "review": "pending", **tags})
    one_champion = Version("moving", "1", "a" * 64)

    def assess(version: Version, *_: object) -> Version:
        return mine

    def promote(*given: str) -> Version:
        promoted.append(given)
        return mine

    def train(*_: object, **__: object) -> dict[str, str]:
        champions.append(one_champion)
        return {"version": "2"}

    sought: list[tuple[str, ...]] = []
    request = RecipeRequest(recipe=small_recipe(), auto_batch=True)
    monkeypatch.setenv("VITSEG_HOME", str(tmp_path))
    for name, fake in {
        "preprocess": lambda *_, **__: {"fingerprint": "f"},
        "read_manifest": lambda _: None,
        "recipe_digest": lambda *_: request.digest(),
        "train": train,
        "ensure_assessed": assess,
        "changes_since": lambda *_: (ClassChange((), removed=removed), []),
    }.items():
        monkeypatch.setattr(module, name, fake)
    monkeypatch.setattr(module.versions, "find_trained", lambda *given: sought.append(given))
    monkeypatch.setattr(module.versions, "get_version", lambda *_: mine)
    monkeypatch.setattr(module.promotion, "champion_of", lambda _: champions[0] if champions else None)
    monkeypatch.setattr(module.promotion, "promote", promote)
    monkeypatch.setattr(module, "_propose", lambda *given: proposed.append(given))
    module.retrain.fn(str(tmp_path), name="moving", auto_promote=True)
    assert sought == [("moving", "f", request.digest())]  # not that of the batch that was chosen
    assert (len(promoted), len(proposed)) == ((0, 1) if told else (1, 0))
    assert told in capsys.readouterr().err
    waiting = dataclasses.replace(mine, aliases=("challenger",))
    assert module._is_unfinished(waiting, True, None, "") == (not told)


def test_no_name_gets_stuck_when_classes_and_sizes_change(
    trainings: list[str], scenes: Path, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.retrain import retrain
    from vitseg.registry import promotion, tracking, versions

    road, _, building, *rest = train_classes()  # the champion knows kerbs, no sidewalk, and has another order
    kerb = Label("kerb", (1, 2, 3), 77)
    classes = tuple(
        dataclasses.replace(label, train_id=place) for place, label in enumerate((building, road, kerb, *rest))
    )
    save_bundle(tmp_path / "bundle", build_model(small_recipe().model, (16, 32), len(classes), seed=0), classes)
    run_id = tracking.start_run("by hand", {}, {})
    tags = {"review": "pending", "shards": shards}
    versions.register(tmp_path / "bundle", name="moving", run_id=run_id, tags=tags, description="")
    MlflowClient().set_registered_model_alias("moving", promotion.CHAMPION, "1")
    rules = tmp_path / "gate.toml"
    rules.write_text("[champion]\nslower = 100\nclass_drop = 1.0\n")  # a busy machine decides nothing here

    def run() -> dict[str, Any]:
        options = {"name": "moving", "start": "champion", "auto_promote": True, "gate": str(rules)}
        return retrain(str(scenes), shards=str(tmp_path / "shards"), size=(32, 64), overrides=OVERRIDES, **options)

    result, told = run(), capsys.readouterr().err
    for line in (
        "the champion models:/moving/1 does not know: sidewalk; they are learned and measured",
        "the champion models:/moving/1 also knows: kerb; no mask of the new version will show them",
        "sees images of 32×16, these are 64×32",
        "classes that it knows: road, building, wall",
        "from scratch: sidewalk",
        "classes of the champion are gone: a person decides",
    ):
        assert line in told
    assert told.index("does not know: sidewalk") < told.index("registering")
    assert (result["gate"], result["champion"]) == ("passed", "")
    page = versions.get_version("moving", "2").description
    for text in (
        "it is compared with the champion on the 18 that both know",
        "New, so held to the floors alone: sidewalk.",
        "**Removed, so no mask will show them any more: kerb.**",
        "The champion sees images of 32×16, this version of 64×32",
    ):
        assert text in page
    assert (run()["changed"], len(trainings)) == (False, 1)
    assert "nothing new" in capsys.readouterr().err  # it waits for a person, and is announced once
    assert promotion.promote("moving", "2", "ada", "sidewalks at last").aliases == ("champion",)
    assert promotion.rollback("moving", "ada", "no kerbs").version == "1"
