"""A bundle of a few kilobytes, and a run to register it from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.conftest import small_recipe
from vitseg.labels import train_classes
from vitseg.metrics.result import Evaluation
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


def evaluated(
    images: torch.Tensor | None,
    classes: tuple[str, ...] = (),
    *,
    samples: int | None = None,
    psnr: float = 12.0,
    images_per_second: float = 10.0,
    seam: float = 1.0,
) -> Evaluation:
    """Return an evaluation with these confusion matrices, (N, K, K), and one seam ratio everywhere."""
    confusion = torch.zeros(0, 0, dtype=torch.int64) if images is None else images.sum(0)
    counts = torch.tensor([[[100, 100], [100, round(100 * seam)]]] * 2)
    return Evaluation(
        confusion, loss=1.0, mean_absolute_error=0.1, strongest_channel_accuracy=0.5, classes=classes, images=images,
        samples=samples if samples is not None or images is None else len(images), seams={8: counts},
        target_seams={8: counts}, mean_squared_error=10 ** (-psnr / 10), images_per_second=images_per_second,
    )  # fmt: skip


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
