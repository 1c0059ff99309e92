"""Fixtures for all tests: the embedded servers, started when the first test asks for them."""

import os
from collections.abc import Iterator

import pytest

from flows import environment
from flows import stack as servers
from vitseg import s3 as s3_store


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the embedded S3 server (2 s) for the whole session; return the address of its bucket.

    VITSEG_HOME and the AWS_ variables point to it until the session ends.
    """
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("AWS_", "MLFLOW_", "PREFECT_")):
            del os.environ[name]
    os.environ["VITSEG_HOME"] = str(tmp_path_factory.mktemp("home"))
    s3_store._client_of.cache_clear()
    try:
        servers.up(servers=["s3"])
        environment.enter()
        yield "s3://vitseg"
    finally:
        servers.down()
        os.environ.clear()
        os.environ.update(before)
        s3_store._client_of.cache_clear()


@pytest.fixture(scope="session")
def stack(s3: str) -> servers.StackStatus:
    """Start MLflow and Prefect too (15 – 60 s, by load); the environment points to them, as for a command."""
    status = servers.up()
    environment.enter()
    return status
