"""infra/compose.yaml and infra/Dockerfile: what can be told of them without an engine."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.infra.compose import FILE, ROOT, load, substitute

WHOLE = yaml.safe_load(FILE.read_text())
SERVICES = WHOLE["services"]
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text()
RUNBOOK = (ROOT / "infra/README.md").read_text()
SECRETS = re.search(r"for name in ([A-Z0-9_ ]+); do\n  renew", RUNBOOK)
NAMES = {*(SECRETS[1].split() if SECRETS else ()), "MLFLOW_WEBHOOK_KEY"}


def variables(service: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in service.get("environment", {}).items()}


def test_variables_are_filled_in_as_compose_does_it() -> None:
    values = {"A": "1", "EMPTY": ""}
    assert substitute("${A}-${B:-two}-${EMPTY:-3}-${B:-${A:?no}}-$$A", values) == "1-two-3-1-$A"
    with pytest.raises(KeyError, match="tell me"):
        substitute("${B:-${C:?tell me}}", values)


def test_every_secret_comes_from_the_environment_and_must_be_there() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))
    assert asked == NAMES, "the runbook creates what compose.yaml needs, and nothing else"
    for name, service in SERVICES.items():
        for key, value in variables(service).items():
            if re.search("PASSWORD|SECRET|_KEY|AUTH_STRING", key):
                assert ":?" in value, f"{name}: {key} may be empty, or stands here in the open"


@pytest.mark.parametrize("missing", sorted(NAMES))
def test_nothing_starts_without_one_of_them(missing: str) -> None:
    with pytest.raises(KeyError, match=rf"{missing}: create infra/\.env"):
        load(dict.fromkeys(NAMES - {missing}, "x"))


def test_no_secret_stands_in_a_command_or_an_address() -> None:
    for name, service in load(dict.fromkeys(NAMES, "hush"))["services"].items():
        assert "hush" not in str(service.get("command")), name
        assert "hush" not in str(service["healthcheck"]), name
        assert not [key for key, value in variables(service).items() if "://" in value and "hush" in value], name


def test_ports_are_open_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_where_who_trains_must_not_approve_reviews_have_a_worker_of_their_own() -> None:
    given = {
        **dict.fromkeys(NAMES, "hush"),
        **{"MLFLOW_WORKER_USERNAME": "trainer", "MLFLOW_WORKER_PASSWORD": "trains"},
        **{"MLFLOW_REVIEWER_USERNAME": "reviewer", "MLFLOW_REVIEWER_PASSWORD": "looks"},
        "CPU_WORKER_OPTIONS": "--work-queue default",
    }
    services = load(given)["services"]
    logins = {
        name: [services[name]["environment"][f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD")]
        for name in ("cpu-worker", "gpu-worker", "review-worker")
    }
    assert logins == {
        "cpu-worker": ["trainer", "trains"], "gpu-worker": ["trainer", "trains"], "review-worker": ["reviewer", "looks"],
    }  # fmt: skip
    queues = {
        name: services[f"{name}-worker"]["command"].partition("--work-queue ")[2].split()[0]
        for name in ("cpu", "review")
    }
    review = next(
        row
        for row in yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]
        if row["name"] == "review"
    )
    assert queues == {"cpu": "default", "review": review["work_pool"]["work_queue_name"]}
    assert (
        "--work-queue" not in load(dict.fromkeys(NAMES, "hush"))["services"]["cpu-worker"]["command"]
    )  # else: all of them


def test_every_service_has_a_health_check_that_signs_in() -> None:
    for name, service in SERVICES.items():
        test = service["healthcheck"]["test"]
        if name == "postgres":
            # Each database, over TCP: while the image makes them it listens on its socket alone.
            databases = re.findall(r"CREATE DATABASE (\w+)", WHOLE["configs"]["databases"]["content"])
            assert (
                f"for base in {' '.join([service['environment']['POSTGRES_DB'], *databases])}; do psql -h postgres"
                in test[1]
            )
        else:
            assert test[:3] == ["CMD", "python", "infra/health.py"]
            assert "127.0.0.1" not in test[4], "through the name that others use"
        assert service["healthcheck"]["retries"]


def test_what_a_service_needs_is_healthy_first() -> None:
    for name, service in SERVICES.items():
        needed = service.get("depends_on", {})
        hosts = set(re.findall(r"//(?:[^/@]*@)?(\w+)[:/]", " ".join(variables(service).values())))
        hosts |= {variables(service)["PGHOST"]} if "PGHOST" in variables(service) else set()
        assert (hosts & SERVICES.keys()) - {name} <= needed.keys(), name
        assert all(condition == {"condition": "service_healthy"} for condition in needed.values())


def test_images_are_pinned() -> None:
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", SERVICES["postgres"]["image"])
    assert {service["image"] for name, service in SERVICES.items() if name != "postgres"} == {
        "vitseg:${VITSEG_TAG:-local}"
    }
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert "latest" not in DOCKERFILE + FILE.read_text()
    assert [name for name, service in SERVICES.items() if "build" in service] == ["s3"], "one image, built once"


def test_the_image_runs_as_somebody_and_dependencies_come_before_sources() -> None:
    lines = [line for line in DOCKERFILE.splitlines() if re.match(r"(FROM|ARG|COPY|RUN|USER|ENV|WORKDIR)", line)]
    assert "USER 1000:1000" in lines, "a number: Kubernetes can't tell whether a name is root"
    assert lines.index("COPY pyproject.toml infra/constraints.txt /opt/dependencies/") < lines.index("COPY . .")
    assert lines.index("COPY . .") < lines.index("ARG GIT_COMMIT="), "or every commit installs everything anew"
    assert "VITSEG_GIT_COMMIT=${GIT_COMMIT}" in DOCKERFILE
    assert set(SERVICES["s3"]["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def test_secrets_and_backups_stay_out_of_image_and_repository() -> None:
    ignored = (ROOT / "infra/Dockerfile.dockerignore").read_text().split("\n")
    assert {".git", "**/.env*", "infra/backup"} <= set(ignored)
    for path in ("infra/.env", "infra/.env.new", "infra/backup/env", "infra/backup/s3.tar"):
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT)
        if done.returncode == 128:
            pytest.skip("not a git checkout")
        assert done.returncode == 0, f"{path} could be committed"


def test_workers_poll_the_pools_that_deployments_name() -> None:
    deployments = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]
    pools = {deployment["work_pool"]["name"] for deployment in deployments}
    polled = {pool for service in SERVICES.values() for pool in re.findall(r"--pool (\w+)", service.get("command", ""))}
    assert polled == pools


def test_lines_fit() -> None:
    for path in sorted((ROOT / "infra").rglob("*.y*ml")):
        assert max(map(len, path.read_text().splitlines())) <= 132, path
