"""Commands find their servers, and never override what the user has set."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stack import credentials, environment
from flows.stack import stack as stack_module
from flows.stack.environment import enter, prepare_tracking
from flows.stack.stack import StackStatus


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Give an environment that knows no servers, and a new home; put the old one back afterwards."""
    before, ours = dict(os.environ), dict(environment._OURS)
    for name in before:
        if name.startswith(("AWS_", "MLFLOW_", "PREFECT_", "VITSEG_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    environment._OURS.clear()
    os.environ["VITSEG_HOME"] = str(tmp_path / "home")
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    os.environ.clear()
    os.environ.update(before)
    environment._OURS.clear()
    environment._OURS.update(ours)


def places() -> list[str | None]:
    """Return where this process looks for S3, MLflow and Prefect."""
    return [os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")]


def test_without_servers_all_state_stays_in_the_home(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert enter() == ()
    home = tmp_path / "home"
    assert places() == [None, f"sqlite:///{home}/mlflow/tracking.db", None]
    assert os.environ["PREFECT_HOME"] == str(home / "prefect")
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "90"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert not any(name.startswith("AWS_") for name in os.environ)


def test_a_running_stack_is_found(stack: StackStatus, clean: pytest.MonkeyPatch) -> None:
    home = Path(stack.credentials).parent.parent
    clean.setenv("VITSEG_HOME", str(home))
    assert enter() == ()
    urls = [server.url for server in stack_module.status().servers]
    assert places() == [urls[0], urls[1], f"{urls[2]}/api"]
    assert len(os.environ["AWS_SECRET_ACCESS_KEY"]) > 30
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "vitseg"
    assert os.environ["PREFECT_API_AUTH_STRING"].startswith("vitseg:")
    enter()  # again, as after `up`
    assert places() == [urls[0], urls[1], f"{urls[2]}/api"]

    clean.setenv("VITSEG_HOME", str(home.parent / "elsewhere"))
    enter()
    assert places()[0] is places()[2] is None
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_what_the_user_has_set_stays(stack: StackStatus, clean: pytest.MonkeyPatch) -> None:
    theirs = {
        "AWS_PROFILE": "work",
        "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
        "PREFECT_API_URL": "https://prefect.example.org/api",
        "PREFECT_HOME": "/their/prefect",
        "DO_NOT_TRACK": "0",
    }
    for name, value in (theirs | {"VITSEG_HOME": str(Path(stack.credentials).parent.parent)}).items():
        clean.setenv(name, value)
    enter()
    assert {name: os.environ[name] for name in theirs} == theirs
    # Our credentials must not travel to their servers.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING"):
        assert name not in os.environ


def test_servers_that_vanished_are_named(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = tmp_path / "home" / "stack"
    folder.mkdir(parents=True)
    ports = {"s3": 1, "mlflow": 2, "prefect": 3}
    state = {name: {"pid": gone.pid, "ports": {"http": port}} for name, port in ports.items()}
    state["s3"]["pid"] = None  # `stack down` was told to stop this one
    (folder / "state.json").write_text(json.dumps(state))
    assert enter() == ("mlflow", "prefect")
    credentials.read_or_make(folder)
    enter()
    # Commands must fail for want of these, and never find another registry instead.
    assert places() == [None, "http://127.0.0.1:2", "http://127.0.0.1:3/api"]


def test_somebody_else_may_sign_in_to_the_stacks_mlflow(stack: StackStatus, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("VITSEG_HOME", str(Path(stack.credentials).parent.parent))
    clean.setenv("MLFLOW_TRACKING_USERNAME", "reviewer")
    clean.setenv("MLFLOW_TRACKING_PASSWORD", "looks-at-pictures")
    enter()
    assert places()[1] == stack_module.status().servers[1].url
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "reviewer"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "looks-at-pictures"


def test_a_proxy_of_the_user_is_bypassed_on_loopback(clean: pytest.MonkeyPatch) -> None:
    enter()
    assert "NO_PROXY" not in os.environ
    clean.setenv("https_proxy", "http://proxy:3128")
    clean.setenv("NO_PROXY", "intranet")
    enter()
    enter()
    assert os.environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost"


def test_import_is_light_and_needs_no_home_folder(clean: pytest.MonkeyPatch) -> None:
    code = """
import sys
from flows.stack.environment import enter
enter()
heavy = {"mlflow", "prefect", "torch", "boto3", "numpy"} & set(sys.modules)
assert not heavy, heavy
import os
from prefect.settings import get_current_settings
assert str(get_current_settings().home) == os.environ["PREFECT_HOME"]
"""
    clean.delenv("HOME", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_tracking_is_prepared_once_by_whoever_comes_first(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "from flows.stack.environment import enter, prepare_tracking; enter(); prepare_tracking()"
    commands = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [command.wait(timeout=180) for command in commands] == [0, 0, 0]
    file = tmp_path / "home" / "mlflow" / "tracking.db"
    with sqlite3.connect(file) as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
        assert database.execute("select count(*) from experiments").fetchone()[0] >= 0
    assert not file.with_suffix(".part").exists()
    enter()
    start, written = time.monotonic(), file.stat().st_mtime_ns
    prepare_tracking()
    assert time.monotonic() - start < 1
    assert file.stat().st_mtime_ns == written


def test_a_tracking_server_of_the_user_is_left_alone(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    enter()
    prepare_tracking()
    assert not (tmp_path / "home" / "mlflow").exists()
