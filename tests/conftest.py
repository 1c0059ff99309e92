"""Fixtures for all tests: the embedded servers, started when the first test asks for them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from flows.stack import environment
from flows.stack import stack as servers
from flows.stack.servers import prepare_database
from vitseg.data.commit import commit
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.storage import s3_client
from vitseg.synth.dataset import write_scenes

# No deadline: on a busy machine an example may take any time. Fifty examples a property keep the suite short.
settings.register_profile("vitseg", deadline=None, max_examples=50)
settings.load_profile("vitseg")
torch.set_num_threads(1)  # tests compute on tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the embedded S3 server (2 s) for the whole session; return the address of its bucket.

    VITSEG_HOME and the AWS_ variables point to it until the session ends.
    """
    before = dict(os.environ)
    guard = None
    for name in list(os.environ):
        if name.startswith(("AWS_", "MLFLOW_", "PREFECT_")):
            del os.environ[name]
    os.environ["VITSEG_HOME"] = str(tmp_path_factory.mktemp("home"))
    s3_client.forget_connections()
    try:
        # Ends the servers when we end, even if we are killed: then its standard input closes.
        code = "import sys; from flows.stack import stack; sys.stdin.read(); stack.down()"
        guard = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
        servers.up(servers=["s3"])
        environment.enter()
        yield "s3://vitseg"
    finally:
        if guard is not None:
            guard.communicate()
        os.environ.clear()
        os.environ.update(before)
        s3_client.forget_connections()


@pytest.fixture(scope="session")
def stack(s3: str) -> servers.StackStatus:
    """Start MLflow and Prefect too (15 – 60 s, by load); the environment points to them, as for a command."""
    status = servers.up()
    environment.enter()
    return status


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate 24 training and 6 validation scenes of 64×32 pixels in the official layout."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), train=24, val=6, size=(64, 32), seed=3)
    return folder


@pytest.fixture(scope="session")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pack the scenes into shards of 8 samples in a folder."""
    folder = str(tmp_path_factory.mktemp("shards"))
    plan = make_plan(str(scenes), size=(32, 64), shard_samples=8)
    commit(plan, [write_shard(shard, plan.options, folder) for shard in plan.shards], folder)
    return folder


@pytest.fixture
def sqlite(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point MLflow to a database of this test's own, without any server."""
    template = tmp_path_factory.getbasetemp() / "mlflow.db"
    if not template.exists():
        prepare_database(template)
    database = tmp_path / "mlflow.db"
    shutil.copy(template, database)
    address = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("VITSEG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts beside where it runs
    return address


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A published ViT's file in timm's naming, for images of 48×48."""
    torch.manual_seed(0)
    state = {"cls_token": torch.rand(1, 1, 24), "pos_embed": torch.rand(1, 10, 24)}
    state |= {"patch_embed.proj.weight": torch.rand(24, 3, 16, 16), "patch_embed.proj.bias": torch.rand(24)}
    shapes = {"norm1": (24,), "norm2": (24,), "attn.qkv": (48, 24), "attn.proj": (24, 16)}
    for name, shape in {**shapes, "mlp.fc1": (32, 24), "mlp.fc2": (24, 32)}.items():
        state |= {f"blocks.0.{name}.weight": torch.rand(shape), f"blocks.0.{name}.bias": torch.rand(shape[0])}
    state |= {"norm.weight": torch.rand(24), "norm.bias": torch.rand(24)}
    file = tmp_path / "vit" / "model.safetensors"
    file.parent.mkdir()
    save_file(state, file)
    return file
