"""Requests to MLflow: how often they are tried, and what is raised when they fail."""

import contextlib
import os
from collections.abc import Iterator

import requests
from mlflow.exceptions import MlflowException, RestException

from vitseg.errors import AccessError, NotFoundError, RegistryError
from vitseg.storage import without_secrets

_RETRIES = "5"
"""A minute for a server that restarts; MLflow's own default is four."""
_UNREACHABLE = (requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError)


@contextlib.contextmanager
def mlflow_request(doing: str) -> Iterator[None]:
    """Limit the retries of MLflow's requests in this block, and turn its exceptions into one clear line.

    The line begins with what the block is `doing`, as in `reading a run`.

    Raises:
        NotFoundError: the server does not know this run, model or version.
        AccessError: the server refuses.
        RegistryError: the server can't be reached, or anything else failed.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _RETRIES)
    try:
        yield
    except (MlflowException, requests.RequestException) as raised:
        # The exception of a refused copy has no reason; its cause has.
        error = raised.__cause__ if isinstance(raised.__cause__, RestException) else raised
        text = str(error).strip().split("\n")[0]
        code, status = getattr(error, "error_code", ""), _http_status(error)
        server = without_secrets(os.environ.get("MLFLOW_TRACKING_URI", "MLflow"))
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(f"{doing} failed: {text}") from error
        if isinstance(error, RestException) and status in (401, 403):
            raise AccessError(f"{server} refuses: {doing} ({text})") from error
        if status == 403:
            raise AccessError(f"{server} refuses: {doing}: this user may not") from error
        if status == 401:
            raise AccessError(
                f"{server} refuses these credentials: check MLFLOW_TRACKING_USERNAME and _PASSWORD"
            ) from error
        if _is_unreachable(error):
            raise RegistryError(f"no tracking server answers at {server}: start it with `vitseg stack up`") from error
        raise RegistryError(f"{doing} failed: {text}") from error


def _http_status(error: Exception) -> int:
    """Return the HTTP status that an exception stands for; 0: none."""
    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    response = getattr(error, "response", None)
    return 0 if response is None else int(response.status_code)


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether no server answered: MLflow's own exception keeps that of `requests` as its context."""
    while error is not None:
        if isinstance(error, _UNREACHABLE):
            return True
        error = error.__cause__ or error.__context__
    return False
