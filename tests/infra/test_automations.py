"""infra/automations.yaml by the server's own rules: which events an automation acts on."""

from typing import Any

import yaml
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.triggers import EventTrigger

from tests.infra.compose import ROOT

AUTOMATIONS = {row["name"]: row for row in yaml.safe_load((ROOT / "infra/automations.yaml").read_text())["automations"]}


def crashed(message: str, count: int = 1, deployment: str = "train", name: str = "Crashed") -> ReceivedEvent:
    related: list[dict[str, Any]] = [
        {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow", "prefect.resource.name": "train"},
        {
            "prefect.resource.id": "prefect.work-pool.1",
            "prefect.resource.role": "work-pool",
            "prefect.resource.name": "gpu",
        },
    ]
    if deployment:
        row = {"prefect.resource.id": "prefect.deployment.1", "prefect.resource.role": "deployment"}
        related.append({**row, "prefect.resource.name": deployment})
    resource = {
        "prefect.resource.id": "prefect.flow-run.1",
        "prefect.run-count": str(count),
        "prefect.state-message": message,
    }
    return ReceivedEvent.model_validate(
        {
            "id": "00000000-0000-0000-0000-000000000001",
            "occurred": "2026-01-01T00:00:00Z",
            "event": f"prefect.flow-run.{name}",
            "resource": resource,
            "related": related,
        }
    )


def test_a_training_starts_again_where_its_process_is_gone_and_not_for_ever() -> None:
    row = AUTOMATIONS["a training whose process or machine is gone starts again"]
    trigger = EventTrigger.model_validate(row["trigger"])
    (missed,) = AUTOMATIONS["a run that sends no heartbeat has crashed"]["actions"]
    gone = (
        "Process exited with status code: -9. Process exited due to a SIGKILL signal.",
        "Execution was aborted by a termination signal.",  # its worker was stopped
        missed["message"],
    )
    for message in gone:
        assert trigger.covers(crashed(message))
        assert trigger.covers(crashed(message, count=2, deployment="pretrain"))
        assert not trigger.covers(crashed(message, count=3)), "twice at most"
        assert not trigger.covers(crashed(message, count=0)), "it has not even begun"
        assert not trigger.covers(crashed(message, deployment="segment"))
        assert not trigger.covers(crashed(message, deployment="")), "a command of somebody, who sees it"
        assert not trigger.covers(crashed(message, name="Cancelled"))
    assert not trigger.covers(crashed("Process exited with status code: 1. Process exited with a general error."))
