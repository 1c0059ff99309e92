"""An assessment: the verdict and the page of a version, by rules that travel with it."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.training.conftest import small_recipe
from vitseg.errors import DataError, UnrelatedClassesError, UsageError
from vitseg.labels import Label
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import promotion, tracking, versions
from vitseg.registry.gate import is_compared, is_stale, verdict_of
from vitseg.registry.versions import Version, get_version


def rules(folder: Path, miou: float) -> str:
    file = folder / f"{miou}.toml"
    file.write_text(f"[always]\nmiou = {miou}\n")
    return str(file)


def test_a_version_gets_a_verdict_a_page_and_a_picture(candidate: Version, tmp_path: Path) -> None:
    from flows.assess import assess

    result = assess("candidates", "1", gate=rules(tmp_path, 0.99))
    assert (result["gate"], result["compared_to"], result["differences"]) == ("failed", "none", {})
    assert result["rules"][0].keys() == {"rule", "threshold", "value", "passed"}
    assert (result["rules"][0]["threshold"], result["rules"][0]["passed"]) == ("≥ 0.99", False)
    found = get_version("candidates", "1")
    assert (verdict_of(found), is_compared(found)) == ("failed", True)
    assert found.description.startswith("# Gate: FAILED")
    assert found.description.endswith("# Training summary\n\nby hand")
    assert [file.path for file in MlflowClient().list_artifacts(found.run_id, "review")] == ["review/examples.png"]


def test_the_rules_of_the_last_assessment_apply_again(candidate: Version, tmp_path: Path) -> None:
    from flows.assess import assess

    assert assess("candidates", "1")["gate"] == "passed"  # the defaults ask for little
    assert assess("candidates", "1", gate=rules(tmp_path, 0.99))["gate"] == "failed"
    assert assess("candidates", "1")["gate"] == "failed"
    versions.set_tags(candidate, {"rules": "{"})
    with pytest.raises(DataError, match="name a file of rules"):
        assess("candidates", "1")


def test_only_a_version_without_a_verdict_of_today_is_assessed(
    candidate: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import assess as module

    first = module.ensure_assessed(candidate)
    assert (verdict_of(first), is_stale(first, None)) == ("passed", False)
    with monkeypatch.context() as patch:
        patch.setattr(module, "assess", None)
        assert module.ensure_assessed(first) == first
    promotion.promote("candidates", "1", "ada", "the first one")
    champion = get_version("candidates", "1")
    assert module.ensure_assessed(champion) == champion  # there is nothing to decide about it
    with pytest.raises(UsageError, match="is the champion already"):
        module.assess("candidates", "1")


def test_a_champion_that_shares_no_class_is_told_and_stands_in_nobodys_way(candidate: Version, tmp_path: Path) -> None:
    from flows.assess import assess

    classes = (Label("crack", (9, 9, 9), 1, 0), Label("joint", (8, 8, 8), 2, 1))
    save_bundle(tmp_path / "other", build_model(small_recipe().model, (16, 32), 2, seed=0), classes)
    run_id = tracking.start_run("by hand", {}, {})
    tags = {"review": "pending", "shards": candidate.tags["shards"]}
    versions.register(tmp_path / "other", name="candidates", run_id=run_id, tags=tags, description="")
    MlflowClient().set_registered_model_alias("candidates", promotion.CHAMPION, "2")
    result = assess("candidates", "1")
    assert (result["gate"], result["compared_to"], result["differences"]) == ("passed", "2", {})
    assert [rule["rule"].split(" (")[0] for rule in result["rules"]] == ["mIoU", "IoU of the worst class"]
    page = get_version("candidates", "1").description
    assert "The champion was not compared, as they share no class of these images: only floors apply." in page
    assert not is_compared(get_version("candidates", "1"))
    assert promotion.promote("candidates", "1", "ada", "streets again").aliases == ("champion",)
    with pytest.raises(UnrelatedClassesError, match=r"the model knows crack, joint; .* share no class"):
        assess("candidates", "2")  # on these shards it can't be measured at all


def test_a_target_that_is_not_there_is_refused_before_anything_is_measured(candidate: Version) -> None:
    from flows.assess import assess

    with pytest.raises(UsageError, match="no registered model 'apporved'"):
        assess("candidates", "1", to="apporved")
