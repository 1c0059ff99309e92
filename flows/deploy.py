"""Registers with a Prefect server what it should run: pools, the deployments of infra/prefect.yaml, automations.

Everything here may be done again: what is there is left alone or brought up to date, never doubled.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.console import note
from vitseg.errors import NotFoundError, UsageError, VitsegError

_AUTOMATIONS = "automations.yaml"
_SECONDS = 300


def deploy(file: Path) -> dict[str, Any]:
    """Register everything with the server of PREFECT_API_URL.

    Args:
        file: the deployments; automations lie beside it.

    Raises:
        NotFoundError: the file does not exist.
        VitsegError: the server refused it.
    """
    plan = _read(file)["deployments"]
    automations = _read(file.parent / _AUTOMATIONS)["automations"]
    with get_client(sync_client=True) as client:
        pools = sorted({deployment["work_pool"]["name"] for deployment in plan})
        made = [name for name in pools if _make_pool(client, name)]
        _register(file)
        for values in automations:
            _put_automation(client, AutomationCore.model_validate(values))
    note("a run can be started in Prefect's UI, or by `prefect deployment run NAME/NAME`; each pool needs a worker")
    return {
        "deployments": [deployment["name"] for deployment in plan],
        "pools": pools,
        "new_pools": made,
        "automations": [values["name"] for values in automations],
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{file} does not exist: run this in a checkout of vitseg, or name yours with --file"
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no deployments")
    return found


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise VitsegError(f"{file} could not be registered: {' '.join(last)}")


def _put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)
