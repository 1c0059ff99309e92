"""Permissions of a team: trainers register candidates, only reviewers promote them.

MLflow's permission to edit a registered model covers creating versions *and* moving aliases. So there are two models.
Trainers edit the candidates and only read the approved model, whose champion inference uses; reviewers manage both.
"""

import os
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client
from mlflow.server.auth.client import AuthServiceClient

from vitseg.errors import UsageError
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.names import check_name
from vitseg.registry.tracking import ensure_experiment
from vitseg.registry.versions import ensure_model

_MODEL, _EXPERIMENT = "registered_model", "experiment"
_MIN_PASSWORD = 12  # characters; MLflow refuses shorter ones
_READ, _EDIT, _MANAGE = "READ", "EDIT", "MANAGE"


@dataclass(frozen=True)
class User:
    """A user and their new password, which only MLflow stores, hashed."""

    name: str
    password: str


def make_team(candidates: str, approved: str, trainer: User, reviewer: User) -> None:
    """Create both models and both users, or update their permissions and passwords.

    The user that the environment names has to be an administrator, and owns both models.

    Raises:
        UsageError: both models or both users are the same, a model can't have its name, or a password is too short.
        AccessError: the signed-in user is no administrator.
    """
    for name in (candidates, approved):
        check_name(name)
    if candidates == approved or trainer.name == reviewer.name:
        raise UsageError("trainers must not approve: name two models and two users")
    for who, user in (("TRAINER", trainer), ("REVIEWER", reviewer)):
        if len(user.password) < _MIN_PASSWORD:
            raise UsageError(f"{who}_PASSWORD must be set, to {_MIN_PASSWORD} characters or more")
        if user.name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
            raise UsageError(f"you are signed in as {user.name}: choose other users as trainer and reviewer")
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server.startswith("http"):
        raise UsageError(
            "only an MLflow server has users: name yours in MLFLOW_TRACKING_URI, or start one with `vitseg stack up`"
        )
    with mlflow_request("setting up the team"):
        client = MlflowClient()
        experiment = ensure_experiment(client)
        for name in (candidates, approved):
            ensure_model(client, name)
        auth = get_app_client("basic-auth", tracking_uri=server)
        for user in (trainer, reviewer):
            _make_user(auth, user)
            _grant(auth, user, _EXPERIMENT, experiment, _EDIT)
        _grant(auth, trainer, _MODEL, candidates, _EDIT)
        _grant(auth, trainer, _MODEL, approved, _READ)
        # A decision removes the alias challenger, which takes more than the permission to edit.
        _grant(auth, reviewer, _MODEL, candidates, _MANAGE)
        _grant(auth, reviewer, _MODEL, approved, _MANAGE)


def _grant(auth: AuthServiceClient, user: User, kind: str, name: str, permission: str) -> None:
    """Give a user exactly this permission; MLflow has no call that changes one."""
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
