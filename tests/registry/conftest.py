"""A bundle of a few kilobytes, and a run to register it from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.conftest import small_recipe
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import tracking, versions
from vitseg.registry.versions import Version

CLASSES = train_classes()[:4]
SIZE = (16, 24)

ARTIFACTS = Path("home/mlflow/artifacts")
"""Where the fixture `sqlite` has MLflow keep them, relative to the test's folder."""

Register = Callable[[int], Version]


def write_bundle(folder: Path, seed: int = 0) -> Path:
    save_bundle(folder, build_model(small_recipe().model, SIZE, len(CLASSES), seed=seed), CLASSES)
    return folder


@pytest.fixture
def register(sqlite: str, tmp_path: Path) -> Register:
    """Return a function that registers a bundle with weights of a seed as the next version of `vitseg`."""

    def one(seed: int) -> Version:
        folder = write_bundle(tmp_path / f"bundle-{seed}", seed)
        run_id = tracking.start_run("test", {}, {})
        return versions.register(
            folder, name="vitseg", run_id=run_id, tags={"review": "pending"}, description=f"seed {seed}"
        )

    return one
