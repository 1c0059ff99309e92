"""How a command finds its servers: by the environment, as every AWS, MLflow and Prefect client does.

What the user has set stays. What is missing points to the embedded stack if that runs, else to MLflow's SQLite
file and Prefect's temporary server on this machine.
"""

import os

from flows.stack import credentials, stack
from flows.stack.processes import TELEMETRY_OFF
from flows.stack.servers import Site, prepare_database
from vitseg.home import home

_OURS: dict[str, str] = {}  # what `enter` has set; everything else is the user's

# Any of these means that the user has an S3 store of their own.
_AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_NO_SIGN_REQUEST",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
_MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
_PREFECT = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_PROFILE")


def enter(*, only_stack: bool = False) -> tuple[str, ...]:
    """Point this process and its children to the servers they should use.

    Returns the servers that should run (nobody ran `stack down`) but don't: after a reboot, say.

    Call it before anything imports MLflow or Prefect, and again after `stack.up` in the same process.

    Args:
        only_stack: use the embedded stack whatever the user has set: the demo must not touch the user's servers.
    """
    if only_stack:
        for name in (*_AWS, *_MLFLOW, *_PREFECT, "MLFLOW_TRACKING_PASSWORD"):
            os.environ.pop(name, None)
    for name, value in _OURS.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _OURS.clear()
    os.environ["VITSEG_HOME"] = str(home())  # children may work in other folders
    home().mkdir(parents=True, exist_ok=True)  # Prefect makes its own folder, but not those above it
    for name, value in TELEMETRY_OFF.items():
        _offer({name: value})
    _offer({"PREFECT_HOME": str(home() / "prefect")})
    _offer({"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90"})
    _reach_loopback()
    lost = _offer_stack()
    _offer({"MLFLOW_TRACKING_URI": _local_tracking()})
    return lost


def prepare_tracking() -> None:
    """Create the SQLite file of MLflow where this process uses our own; call it before anything imports MLflow.

    The first call in a home takes about 8 s, later ones nothing.
    """
    if os.environ.get("MLFLOW_TRACKING_URI") == _local_tracking():
        file = home() / "mlflow" / "tracking.db"
        file.parent.mkdir(parents=True, exist_ok=True)
        prepare_database(file)


def _local_tracking() -> str:
    return f"sqlite:///{home() / 'mlflow' / 'tracking.db'}"


def _offer(values: dict[str, str], unless: tuple[str, ...] = ()) -> None:
    """Set all of these variables, or none if the user has set one of them, or one of `unless`."""
    if not any(os.environ.get(name) for name in (*values, *unless)):
        os.environ.update(values)
        _OURS.update(values)


def _offer_stack() -> tuple[str, ...]:
    state = stack.read_state()
    running = {name for name, record in state.items() if stack.is_running(name, record)}
    lost = tuple(name for name, record in state.items() if record["pid"] is not None and name not in running)
    # One that stopped by itself keeps its address: a command must fail, and not find another bucket or registry.
    wanted = running | set(lost)
    if not wanted or (not running and not credentials.exist(stack.folder())):
        return lost
    keys = credentials.read(stack.folder())
    site = Site(stack.folder(), {name: record["ports"] for name, record in state.items()}, keys)
    if "s3" in wanted:
        _offer(
            {
                "AWS_ENDPOINT_URL_S3": site.url("s3"),
                "AWS_ACCESS_KEY_ID": keys["s3_access_key"],
                "AWS_SECRET_ACCESS_KEY": keys["s3_secret_key"],
            },
            unless=_AWS,
        )
        if "AWS_ENDPOINT_URL_S3" in _OURS:
            _offer({"AWS_REGION": "us-east-1"})
    if "mlflow" in wanted:
        _offer({"MLFLOW_TRACKING_URI": site.url("mlflow")}, unless=("MLFLOW_TRACKING_TOKEN",))
        if "MLFLOW_TRACKING_URI" in _OURS:  # the user may sign in there as another user
            user, password = keys["mlflow_username"], keys["mlflow_password"]
            _offer({"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password})
    if "prefect" in wanted:
        api = site.url("prefect") + "/api"
        _offer({"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": keys["prefect_auth"]}, unless=_PREFECT)
    return lost


def _reach_loopback() -> None:
    """Keep requests to our own servers away from the user's HTTP proxy, if there is one."""
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        for name in ("NO_PROXY", "no_proxy"):
            hosts = [host for host in os.environ.get(name, "").split(",") if host]
            if "*" not in hosts and "127.0.0.1" not in hosts:
                os.environ[name] = ",".join([*hosts, "127.0.0.1", "localhost"])
