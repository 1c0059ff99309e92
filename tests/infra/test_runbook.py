"""What infra/README.md shows as files to copy is what the servers take. (Its commands are carried out by the test beside.)"""

import re

import yaml
from prefect.events.schemas.automations import AutomationCore

from tests.infra.compose import ROOT

RUNBOOK = (ROOT / "infra/README.md").read_text()


def test_the_example_of_a_notification_is_an_automation_on_what_retrain_emits() -> None:
    from flows.retrain import PROPOSED

    (text,) = re.findall(r"```yaml\n(.*?)```", RUNBOOK, re.DOTALL)
    automation = AutomationCore.model_validate(yaml.safe_load(text))
    assert automation.trigger.expect == {PROPOSED}


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"^\| `([^`]+)`", RUNBOOK.partition("## Starting")[0], re.MULTILINE):
        assert (ROOT / "infra" / name).exists(), name
    for path in re.findall(r"(?<!tests/)\binfra/[\w./-]+\w", RUNBOOK):
        made = (".env", "backup")  # by the commands themselves
        assert (ROOT / path).exists() or path.startswith(tuple(f"infra/{name}" for name in made)), path
