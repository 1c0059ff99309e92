"""Two registered models and two users, for a team in which who trains must not approve.

MLflow's right to edit a registered model is the right to make versions *and* to move aliases. So trainers edit one model,
the candidates, and only read the other, from which inference takes its champion; reviewers manage both.
"""

import os
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client
from mlflow.server.auth.client import AuthServiceClient

from vitseg.errors import UsageError
from vitseg.registry.tracking import make_experiment, registry_errors
from vitseg.registry.versions import make_model

_MODEL, _EXPERIMENT = "registered_model", "experiment"
_LEAST = 12  # characters of a password, says MLflow
_READ, _EDIT, _MANAGE = "READ", "EDIT", "MANAGE"


@dataclass(frozen=True)
class User:
    """A user and the password that they get; it is nowhere stored but, hashed, in MLflow."""

    name: str
    password: str


def make_team(candidates: str, approved: str, trainer: User, reviewer: User) -> None:
    """Make both models and both users, or bring them up to date: the passwords are those given now.

    Whoever runs this has to be an administrator, and owns what is made; the environment says who that is.

    Raises:
        UsageError: both models, or both users, are the same one; or a password is empty.
        AccessError: this user is no administrator.
    """
    if candidates == approved or trainer.name == reviewer.name:
        raise UsageError("who trains can't approve: name two models and two users")
    for who, user in (("TRAINER", trainer), ("REVIEWER", reviewer)):
        if len(user.password) < _LEAST:
            raise UsageError(f"{who}_PASSWORD must be set, to {_LEAST} characters or more")
        if user.name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
            raise UsageError(f"{user.name} is who you are signed in as: trainer and reviewer are other users")
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server.startswith("http"):
        raise UsageError(
            "users are a matter of an MLflow server: name yours in MLFLOW_TRACKING_URI, or `vitseg stack up`"
        )
    with registry_errors("making the team"):
        client = MlflowClient()
        experiment = make_experiment(client)
        for name in (candidates, approved):
            make_model(client, name)
        auth = get_app_client("basic-auth", tracking_uri=server)
        for user in (trainer, reviewer):
            _make_user(auth, user)
            _grant(auth, user, _EXPERIMENT, experiment, _EDIT)
        _grant(auth, trainer, _MODEL, candidates, _EDIT)
        _grant(auth, trainer, _MODEL, approved, _READ)
        _grant(
            auth, reviewer, _MODEL, candidates, _MANAGE
        )  # what was decided is no challenger: taking an alias away is more
        _grant(auth, reviewer, _MODEL, approved, _MANAGE)


def _grant(auth: AuthServiceClient, user: User, kind: str, name: str, permission: str) -> None:
    """Give a user exactly this right; MLflow has no call that changes one."""
    try:
        auth.grant_user_permission(user.name, kind, name, permission)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        auth.revoke_user_permission(user.name, kind, name)
        auth.grant_user_permission(user.name, kind, name, permission)


def _make_user(auth: AuthServiceClient, user: User) -> None:
    try:
        auth.create_user(user.name, user.password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        auth.update_user_password(user.name, user.password)
