"""What is registered: a version that says where it came from. Without a server of Prefect's."""

from pathlib import Path

import pytest
import torch

from flows.tasks import register_version as module
from flows.tasks.plan_training import plan_training
from tests.training.conftest import SMALL
from vitseg.config import load_layers
from vitseg.dist import World
from vitseg.registry import tracking, versions
from vitseg.registry.provenance import read_provenance
from vitseg.training.nodes import Nodes
from vitseg.training.worker import train_rank


def test_the_license_of_published_weights_goes_with_all_that_starts_from_them(
    shards: str, sqlite: str, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "create_markdown_artifact", lambda *_, **__: None)
    (published.parent / "config.json").write_text('{"license": "dinov3-license", "num_attention_heads": 2}')
    options = [value for value in SMALL if "decoder" in value or value.startswith(("run.", "data."))]
    layers = load_layers("tiny", None, [*options, "run.epochs=1", "optimizer.learning_rate=0.01"])
    for start in (str(published), "models:/transferred/1"):
        job = plan_training.fn(shards, layers, Nodes(), name="transferred", resume=False, init=start)
        train_rank(job.folder, World(0, 1, torch.device("cpu")))
        version = versions.get_version("transferred", module.register.fn(job, "transferred", 1.0, 1)["version"])
        record = read_provenance(version.run_id)
        assert record is not None
        assert (record.init, record.origin.address, record.origin.license) == (start, str(published), "dinov3-license")
        assert version.tags["license"] == "dinov3-license"
        assert tracking.MlflowClient().get_run(version.run_id).data.params["model.mlp_units"] == "(32, 24)"
    assert plan_training.fn(shards, layers, Nodes(), name="transferred", resume=True, init=start).result
