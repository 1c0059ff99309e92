"""A version in the registry that nobody has assessed yet."""

from pathlib import Path

import pytest

from flows.stack.stack import StackStatus
from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import tracking, versions


@pytest.fixture
def candidate(stack: StackStatus, sqlite: str, shards: str, tmp_path: Path) -> versions.Version:
    """Register a bundle with random weights as `models:/candidates/1`."""
    manifest = read_manifest(shards)
    model = build_model(small_recipe().model, manifest.image_size, len(manifest.classes), seed=0)
    save_bundle(tmp_path / "bundle", model, manifest.classes)
    run_id = tracking.start_run("by hand", {}, {})
    tags = {"review": "pending", "shards": shards}
    return versions.register(tmp_path / "bundle", name="candidates", run_id=run_id, tags=tags, description="by hand")
