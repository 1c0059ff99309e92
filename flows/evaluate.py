"""Flow: any model on any split → metrics."""

from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.display.console import note, progress
from vitseg.evaluation import evaluate_bundle
from vitseg.metrics.result import Evaluation
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.registry import versions


@dataclass(frozen=True)
class EvaluatedModel:
    """A model and how it did."""

    uri: str
    bundle: Bundle
    evaluation: Evaluation


@flow(name="evaluate", flow_run_name="evaluate {model}")
def evaluate(model: str, shards: str, *, split: str = "val") -> dict[str, Any]:
    """Measure a model: mIoU, per-class IoU, pixel accuracy, color errors, PSNR and seam ratios, as far as there are classes.

    Args:
        model: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.
        shards: address of the folder that holds manifest.json.
        split: split of the data set.
    """
    evaluated = evaluate_model(model, shards, split)
    result = {**evaluated.evaluation.to_json(), "model": evaluated.uri, "split": split}
    rows = [{"class": name, "IoU": iou} for name, iou in result["per_class_iou"].items() if iou is not None]
    create_table_artifact(rows, key="per-class-iou", description=f"{evaluated.uri}: {evaluated.evaluation.headline}")
    return result


def evaluate_model(model: str, shards: str, split: str, keep_images: bool = False) -> EvaluatedModel:
    """Evaluate a model, with progress; `keep_images` keeps a confusion matrix per image."""
    version, folder = versions.open_model(model)
    bundle = load_bundle(folder)
    note(f"evaluating {version.uri} on {split} of {shards}")
    with progress("evaluating", unit="images") as show:
        evaluation = evaluate_bundle(bundle, shards, split, progress=show, keep_images=keep_images)
    return EvaluatedModel(version.uri, bundle, evaluation)
