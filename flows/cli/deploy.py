"""Registers with a Prefect server what it should run: pools, the deployments of infra/prefect.yaml, automations.

Everything here may be done again: nothing is doubled, and a schedule that somebody switched on or off stays so. All else of
a deployment, its parameters too, is what the file says.
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

_AUTOMATIONS = "automations.yaml"
_SECONDS = 300
_NO_REASON = (
    "An exception occurred.",
    "For further information",
)  # the ends of what Prefect's command says of its reasons


def deploy(file: Path) -> dict[str, Any]:
    """Register everything with the server of PREFECT_API_URL.

    Args:
        file: the deployments; automations lie beside it.

    Raises:
        NotFoundError: a file does not exist.
        UsageError: a file does not say what it should.
        AccessError: the server refuses these credentials.
        VitsegError: it refused something else.
    """
    try:
        pools = {row["name"]: row["work_pool"]["name"] for row in _read(file, "deployments")}
        automations = [AutomationCore.model_validate(row) for row in _read(file.parent / _AUTOMATIONS, "automations")]
    except (KeyError, TypeError, ValidationError) as error:
        raise UsageError(f"{file.parent}: a deployment or automation is not complete ({_one_line(error)})") from error
    try:
        with get_client(sync_client=True) as client:
            made = [name for name in sorted(set(pools.values())) if _make_pool(client, name)]
            switches = _switches(client)
            try:
                _register(file)
            finally:  # it has switched schedules off, also if it failed later
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
        "new_pools": made,
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


def _make_pool(client: SyncPrefectClient, name: str) -> bool:
    """Make a pool of processes; one that is there keeps the limits that somebody gave it."""
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
        said = [line for line in lines if line and not line.startswith(_NO_REASON)]
        raise VitsegError(f"{file} could not be registered: {'; '.join(said[-3:])}")


def _switches(client: SyncPrefectClient) -> dict[tuple[str, str], bool]:
    """Return which schedules are switched on, by the names of deployment and schedule."""
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
