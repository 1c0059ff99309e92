"""An assessment: the verdict and the page of a version, by rules that travel with it."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from vitseg.errors import DataError, UsageError
from vitseg.registry import promotion, versions
from vitseg.registry.gate import is_stale, verdict_of
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
    assert verdict_of(found) == "failed"
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
