"""What infra/ says a team runs, as real processes: Postgres from the distribution, the services of compose.yaml, the runbook."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote

import pytest

from flows.stack import processes
from tests.infra.compose import ROOT, Services, postgres_programs
from vitseg import child_processes

RUNBOOK = (ROOT / "infra/README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```bash\n(.*?)```", RUNBOOK, re.DOTALL))
PARTS = ("postgres", "s3", "mlflow", "prefect", "cpu-worker")

pytestmark = [
    pytest.mark.skipif(
        postgres_programs() is None, reason="Postgres' programs are missing: apt-get install postgresql"
    ),
    pytest.mark.skipif(
        shutil.which("openssl") is None, reason="openssl is missing, with which the runbook makes secrets"
    ),
]

LEAVE = """
import mlflow, sys
from mlflow.server import get_app_client
mlflow.set_experiment("streets")
with mlflow.start_run(run_name="night") as run:
    mlflow.log_metric("miou", 0.5)
    mlflow.log_text("a picture", "page.txt")
mlflow.MlflowClient().create_registered_model("vitseg", description="reviewed")
get_app_client("basic-auth", mlflow.get_tracking_uri()).create_user("ada", "a long password")
print(run.info.run_id)
"""
FIND = """
import json, mlflow, sys
from mlflow.server import get_app_client
from vitseg.data.manifest import read_manifest
run = mlflow.get_run(sys.argv[1])
print(json.dumps({
    "metric": run.data.metrics["miou"],
    "artifact": mlflow.artifacts.load_text(f"runs:/{sys.argv[1]}/page.txt"),
    "model": mlflow.MlflowClient().get_registered_model("vitseg").description,
    "user": get_app_client("basic-auth", mlflow.get_tracking_uri()).get_user("ada").username,
    "shards": {name: split.samples for name, split in read_manifest("s3://vitseg/shards").splits.items()},
}))
"""


class Team:
    """A checkout beside its services, and a shell in it whose `docker` starts processes."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        shutil.copytree(ROOT / "infra", self.checkout / "infra", ignore=shutil.ignore_patterns(".env*", "backup"))
        (folder / "bin").mkdir()
        docker = folder / "bin/docker"
        docker.write_text(
            f'#!/bin/sh\nPYTHONPATH={quote(str(ROOT))} exec {quote(sys.executable)} -m tests.infra.compose "$@"\n'
        )
        docker.chmod(0o755)
        self.path = f"{folder}/bin:{os.environ['PATH']}"

    def services(self) -> Services:
        """Return the services as infra/.env has them now."""
        return Services(self.checkout)

    def shell(self, script: str) -> str:
        """Run lines of the runbook; return what they print."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", BLOCKS["shell"] + script], cwd=self.checkout, timeout=280,
            env={**os.environ, "PATH": self.path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout

    def python(self, code: str, *arguments: str) -> str:
        """Run Python as a worker would; return the last line that it prints."""
        (self.checkout / "script.py").write_text(code)
        return self.shell(f"dc run --rm cpu-worker python script.py {' '.join(arguments)}").splitlines()[-1]


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    """Start everything as the runbook says. Postgres runs as another user, so the folder is not one of pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="vitseg-team-"))
    folder.chmod(0o755)
    marks = [f"{folder}/services:{name}" for name in PARTS]
    # Ends the services when we end, even if we are killed: then its standard input closes.
    code = f"import sys; from vitseg import child_processes; sys.stdin.read(); [child_processes.stop(mark) for mark in {marks!r}]"
    guard = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    try:
        team = Team(folder)
        team.shell(BLOCKS["secrets"] + "dc up -d --wait\n")
        yield team
        team.services().stop_all()
    finally:
        guard.communicate()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def deployed(team: Team) -> Team:
    """Register everything with Prefect, with the runbook's command."""
    team.shell(BLOCKS["deploy"])
    return team


def answer(port: int, host: str, login: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {
        "Host": host,
        "Authorization": "Basic " + b64encode(login.encode()).decode(),
        "Content-Type": "application/json",
    }
    connection.request("POST", "/api/2.0/mlflow/experiments/search", json.dumps({"max_results": 1}), headers)
    return connection.getresponse().status


def wait_until_healthy(services: Services, names: tuple[str, ...]) -> None:
    deadline = time.monotonic() + 90
    while failed := [check.stderr for name in names if (check := services.healthy(name)).returncode]:
        assert time.monotonic() < deadline, failed
        time.sleep(0.5)


def test_every_part_is_healthy_and_only_known_host_names_are_answered(team: Team) -> None:
    services = team.services()
    assert {name: services.healthy(name).returncode for name in PARTS} == dict.fromkeys(PARTS, 0)
    login = "vitseg:" + services.environment("mlflow")["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert answer(services.ports["mlflow"], "mlflow:5000", login) == 200
    assert answer(services.ports["mlflow"], "elsewhere:5000", login) == 403


def test_three_databases_hold_what_the_servers_know(team: Team) -> None:
    tables = {"prefect": "flow_run", "mlflow": "registered_models", "mlflow_auth": "users"}
    for base, table in tables.items():
        team.shell(f"dc exec -T postgres psql -U vitseg -d {base} -Atc 'SELECT count(*) FROM {table}'\n")


def test_no_password_stands_on_a_command_line(team: Team) -> None:
    services = team.services()
    secrets = {line.split("=", 1)[1] for line in (team.checkout / "infra/.env").read_text().splitlines()}
    lines = [" ".join(process.cmdline()) for name in PARTS for process in child_processes.marked(services.mark(name))]
    assert len(lines) >= len(PARTS)
    assert not [line for line in lines if any(secret in line for secret in secrets)]


@pytest.mark.parametrize(
    ("name", "variables", "words"),
    [
        ("postgres", {"PGPASSWORD": "wrong"}, "password authentication failed"),
        ("s3", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "it answers 403"),
        ("mlflow", {"MLFLOW_AUTH_ADMIN_PASSWORD": "wrong"}, "it answers 401"),
        ("prefect", {"PREFECT_SERVER_API_AUTH_STRING": "vitseg:wrong"}, "it answers 401"),
        ("cpu-worker", {"PREFECT_API_AUTH_STRING": "vitseg:wrong"}, "it answers 401"),
        ("cpu-worker", {"PREFECT_WORKER_WEBSERVER_PORT": "1"}, "it does not answer"),
    ],
)
def test_a_check_notices_wrong_credentials(team: Team, name: str, variables: dict[str, str], words: str) -> None:
    check = team.services().healthy(name, variables)
    assert check.returncode != 0
    assert words in check.stderr


def test_without_postgres_the_servers_are_unhealthy_and_come_back_by_themselves(team: Team) -> None:
    services = team.services()
    before = {process.pid for process in child_processes.marked(services.mark("mlflow"))}
    services.stop("postgres")
    for name in ("postgres", "mlflow", "prefect", "cpu-worker"):
        assert services.healthy(name).returncode != 0, name
    assert services.healthy("s3").returncode == 0
    for port, path in ((services.ports["mlflow"], "/health"), (services.ports["prefect"], "/api/health")):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path)
        assert connection.getresponse().status == 200  # what an easy check would have believed
    services.up("postgres")
    wait_until_healthy(services, PARTS)
    assert before & {process.pid for process in child_processes.marked(services.mark("mlflow"))}


def test_backed_up_destroyed_restored_and_upgraded(deployed: Team, scenes: Path) -> None:
    """A worker's run, its shards, a model, an artifact, a user: all of it is there again."""
    team = deployed
    run_it = (
        "dc run --rm cpu-worker prefect deployment run preprocess/preprocess --watch --watch-interval 1 "
        f"--param source={scenes} --param dest=s3://vitseg/shards --param size=[32,64]\n"
    )
    with ThreadPoolExecutor() as pool:
        flow, run = pool.submit(team.shell, run_it), pool.submit(team.python, LEAVE)
        flow.result()
    team.shell(BLOCKS["backup"])
    assert {path.name for path in (team.checkout / "infra/backup").iterdir()} == {
        "prefect.dump", "mlflow.dump", "mlflow_auth.dump", "s3.tar", "env",
    }  # fmt: skip
    services = team.services()
    services.stop_all()
    shutil.rmtree(services.base / "postgres")
    shutil.rmtree(services.state("s3"))
    services.up("postgres")  # empty
    # Restored, then upgraded: one start of the servers for both. To the same versions, for want of others.
    start, deploy = "dc up -d --wait\n", "dc run --rm cpu-worker vitseg deploy\n"
    assert BLOCKS["restore"].endswith(start)
    assert BLOCKS["upgrade"].endswith(start + deploy)  # deployed again, nothing changes: tests/flows knows
    team.shell(BLOCKS["restore"].removesuffix(start) + BLOCKS["upgrade"].removesuffix(deploy))
    assert {name: team.services().healthy(name).returncode for name in PARTS} == dict.fromkeys(PARTS, 0)
    assert json.loads(team.python(FIND, run.result())) == {
        "metric": 0.5, "artifact": "a picture", "model": "reviewed", "user": "ada", "shards": {"train": 24, "val": 6},
    }  # fmt: skip
    query = "SELECT state_type FROM flow_run JOIN flow ON flow.id = flow_id WHERE flow.name = 'preprocess'"
    assert team.shell(f'dc exec -T postgres psql -U vitseg -d prefect -Atc "{query}"\n').split() == ["COMPLETED"]


def test_every_credential_rotates(team: Team) -> None:
    old = (team.checkout / "infra/.env").read_text()
    before = {name: team.services().environment(name) for name in PARTS}
    team.shell(BLOCKS["rotate"])
    services = team.services()
    assert set(old.splitlines()) & set((team.checkout / "infra/.env").read_text().splitlines()) == {
        line for line in old.splitlines() if line.startswith("MLFLOW_WEBHOOK_KEY=")
    }
    for name in PARTS:
        assert services.healthy(name).returncode == 0
        assert services.healthy(name, before[name]).returncode != 0, f"{name} still takes the old credentials"


def test_nothing_is_left_when_it_is_stopped(team: Team) -> None:
    services = team.services()
    services.stop_all()
    assert not [name for name in PARTS if services.is_up(name)]
    assert all(processes.is_free(port) for port in services.ports.values())
