"""Registers pools, the deployments of infra/prefect.yaml, and automations with a Prefect server.

Registering again changes nothing twice. A schedule that somebody switched on or off stays so; everything else of a
deployment, its parameters included, becomes what the file says.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from flows.display.console import note
from vitseg.errors import AccessError, NotFoundError, UsageError, VitsegError
from vitseg.registry.names import check_name, check_optional_name, parse_address

_AUTOMATIONS = "automations.yaml"
_SECONDS = 300
_NO_REASON = ("An exception occurred.", "For further information")  # how Prefect's messages go on after the reason


def deploy(file: Path) -> dict[str, Any]:
    """Register the deployments of a file, and automations.yaml beside it, with the server of PREFECT_API_URL."""
    try:
        pools = {row["name"]: row["work_pool"]["name"] for row in _read(file, "deployments")}
        for row in _read(file, "deployments"):
            _check_names(row.get("parameters"))
        automations = [AutomationCore.model_validate(row) for row in _read(file.parent / _AUTOMATIONS, "automations")]
    except (KeyError, TypeError, ValidationError) as error:
        raise UsageError(f"{file.parent}: a deployment or automation is not complete ({_one_line(error)})") from error
    try:
        with get_client(sync_client=True) as client:
            created = [name for name in sorted(set(pools.values())) if _create_pool(client, name)]
            switches = _switches(client)
            try:
                _register(file)
            finally:  # Prefect's command switched schedules off, perhaps before it failed
                _switch_back(client, switches)
            for automation in automations:
                _put_automation(client, automation)
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise AccessError("the Prefect server refuses these credentials: check PREFECT_API_AUTH_STRING") from error
        raise VitsegError(f"the Prefect server refuses: {_one_line(error)}") from error
    note("a run can be started in Prefect's UI, or by `prefect deployment run NAME/NAME`; each pool needs a worker")
    return {
        "deployments": list(pools),
        "pools": sorted(set(pools.values())),
        "new_pools": created,
        "automations": [automation.name for automation in automations],
    }


def _read(file: Path, key: str) -> list[dict[str, Any]]:
    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{file} does not exist: run this in a checkout of vitseg, or name yours with --file"
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {_one_line(error)}") from error
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        raise UsageError(f"{file} holds no {key}")
    return found[key]


def _check_names(parameters: Any) -> None:
    """Refuse names of models that every run would refuse; what stands in double braces is filled in by Prefect."""
    values = parameters if isinstance(parameters, dict) else {}
    texts = {key: value for key, value in values.items() if isinstance(value, str) and "{{" not in value}
    if "name" in texts:
        check_name(texts["name"])
    check_optional_name(texts.get("to", ""))
    for key in ("model", "init"):
        if texts.get(key, "").startswith("models:"):
            parse_address(texts[key])


def _create_pool(client: SyncPrefectClient, name: str) -> bool:
    """Create a pool of processes and return True; one that exists stays as it is, with its limits."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return True
    return False


def _register(file: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise VitsegError(f"the Prefect server took more than {_SECONDS} s to register {file}: try again") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
        reasons = [line for line in lines if line and not line.startswith(_NO_REASON)]
        raise VitsegError(f"{file} could not be registered: {'; '.join(reasons[-3:])}")


def _switches(client: SyncPrefectClient) -> dict[tuple[str, str], bool]:
    """Return whether each schedule is switched on, by the names of its deployment and its own."""
    return {
        (deployment.name, schedule.slug): schedule.active
        for deployment in client.read_deployments()
        for schedule in deployment.schedules
        if schedule.slug
    }


def _switch_back(client: SyncPrefectClient, switches: dict[tuple[str, str], bool]) -> None:
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            before = switches.get((deployment.name, schedule.slug or ""), schedule.active)
            if before != schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=before)


def _put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
