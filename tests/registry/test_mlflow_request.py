"""What is raised when MLflow refuses, fails or does not answer: exceptions as MLflow makes them of real answers."""

import os

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.request_utils import augmented_raise_for_status
from mlflow.utils.rest_utils import verify_rest_response

from vitseg.errors import AccessError, NotFoundError, RegistryError
from vitseg.registry import tracking
from vitseg.registry.mlflow_request import mlflow_request


def response(status: int, text: str) -> requests.Response:
    answer = requests.Response()
    answer.status_code, answer._content = status, text.encode()
    return answer


@pytest.mark.parametrize(
    ("status", "text", "kind", "hint"),
    [
        (401, "who?", AccessError, "_USERNAME"),
        (403, "no", AccessError, "this user may not"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "not yours"}', AccessError, "refuses.*not yours"),
        (404, "page not found", RegistryError, "404"),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}', NotFoundError, "no such run"),
        (500, "version 403 is broken", RegistryError, "doing this failed"),
    ],
)
def test_an_answer_of_the_server(status: int, text: str, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint) as caught, mlflow_request("doing this"):
        verify_rest_response(response(status, text), "/api/2.0")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [(401, AccessError, "_USERNAME"), (403, AccessError, "this user may not"), (500, RegistryError, "500")],
)
def test_an_answer_about_artifacts(status: int, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint) as caught, mlflow_request("doing this"):
        augmented_raise_for_status(response(status, "why\nin two lines"))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_refused_copy_says_why() -> None:
    with pytest.raises(AccessError, match="not yours"), mlflow_request("copying"):
        try:
            verify_rest_response(response(403, '{"error_code": "PERMISSION_DENIED", "message": "not yours"}'), "/api")
        except MlflowException as error:
            raise MlflowException("Failed to copy") from error


def test_a_number_in_a_message_is_no_status() -> None:
    with pytest.raises(RegistryError, match="version=403") as caught, mlflow_request("reading"):
        raise MlflowException("Model Version (name=vitseg, version=403) not found")
    assert type(caught.value) is RegistryError


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"no tracking server answers.*vitseg stack up") as caught:
        tracking.run_exists("0" * 32)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("error", [requests.ReadTimeout("slow"), requests.exceptions.RetryError("too many 503")])
def test_a_server_that_gives_up_answering(error: Exception) -> None:
    with pytest.raises(RegistryError, match="no tracking server answers"), mlflow_request("reading"):
        raise error


def test_requests_are_tried_for_a_minute_not_for_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with mlflow_request("reading"):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
