"""Flow: any model on any split → metrics."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.display.console import note, progress
from vitseg.evaluation import evaluate_bundle
from vitseg.model.bundle import load_bundle
from vitseg.registry import versions


@flow(name="evaluate", flow_run_name="evaluate {model}")
def evaluate(model: str, shards: str, *, split: str = "val") -> dict[str, Any]:
    """Measure a model: mIoU, per-class IoU, pixel accuracy, color errors, PSNR and seam ratios, as far as there are classes.

    Args:
        model: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.
        shards: address of the folder that holds manifest.json.
        split: split of the data set.
    """
    version, folder = versions.open_model(model)
    note(f"evaluating {version.uri} on {split} of {shards}")
    with progress("evaluating", unit="images") as show:
        evaluation = evaluate_bundle(load_bundle(folder), shards, split, progress=show)
    result = {**evaluation.to_json(), "model": version.uri, "split": split}
    rows = [{"class": name, "IoU": iou} for name, iou in result["per_class_iou"].items() if iou is not None]
    quality = f"mIoU {result['miou']}" if evaluation.classes else f"PSNR {evaluation.psnr:.2f} dB"
    create_table_artifact(rows, key="per-class-iou", description=f"{version.uri}: {quality}")
    return result
