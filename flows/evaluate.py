"""Flow: any model on any split → metrics."""

from dataclasses import dataclass, replace
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.display.console import note, progress
from vitseg.class_change import class_change
from vitseg.data.manifest import read_manifest
from vitseg.errors import UnrelatedClassesError
from vitseg.evaluation import evaluate_bundle, evaluation_precision
from vitseg.metrics.result import Evaluation
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.precision import Precision
from vitseg.registry import versions


@dataclass(frozen=True)
class EvaluatedModel:
    """A model and how it did."""

    uri: str
    bundle: Bundle
    evaluation: Evaluation
    precision: Precision

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that the model knows, measured or not."""
        return [label.name for label in self.bundle.classes]


@flow(name="evaluate", flow_run_name="evaluate {model}")
def evaluate(model: str, shards: str, *, split: str = "val") -> dict[str, Any]:
    """Measure a model: mIoU, per-class IoU, pixel accuracy, color errors, PSNR and seam ratios, as far as there are classes.

    Classes are matched by name; those that only the model or only the data has are told, and not measured.

    Args:
        model: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.
        shards: address of the folder that holds manifest.json.
        split: split of the data set.
    """
    evaluated = evaluate_model(model, shards, split)
    result = {**evaluated.evaluation.to_json(), "model": evaluated.uri, "split": split}
    result["precision"] = evaluated.precision.name
    rows = [{"class": name, "IoU": iou} for name, iou in result["per_class_iou"].items() if iou is not None]
    create_table_artifact(rows, key="per-class-iou", description=f"{evaluated.uri}: {evaluated.evaluation.headline}")
    return result


def evaluate_model(
    model: str, shards: str, split: str, keep_images: bool = False, precision: Precision | None = None
) -> EvaluatedModel:
    """Evaluate a model, with progress; `keep_images` keeps a confusion matrix per image.

    `precision` is that of a model it is compared with: a difference must not come from rounding.
    """
    version, folder = versions.open_model(model)
    bundle = load_bundle(folder)
    manifest = read_manifest(shards)
    note(f"evaluating {version.uri} on {split} of {shards}")
    if tuple(manifest.image_size) != tuple(bundle.image_size):
        sizes = [f"{width}×{height}" for height, width in (manifest.image_size, bundle.image_size)]
        note(f"photographs of {sizes[0]} are resized to the model's {sizes[1]}, and its scores back")
    precision = precision or evaluation_precision(bundle)
    note(precision.line())
    with progress("evaluating", unit="images") as show:
        evaluation = evaluate_bundle(
            bundle, shards, split,
            progress=show, keep_images=keep_images, manifest=manifest, precision=precision.name,
        )  # fmt: skip
    if evaluation.only_in_data:
        note(f"{version.uri} does not know, so not measured: {', '.join(evaluation.only_in_data)}")
    if evaluation.only_in_model:
        note(f"not among the classes of {shards}, so not measured: {', '.join(evaluation.only_in_model)}")
    return EvaluatedModel(version.uri, bundle, evaluation, precision)


def over_shared_classes(a: EvaluatedModel, b: EvaluatedModel) -> tuple[EvaluatedModel, EvaluatedModel]:
    """Return two models as measured on the same images, over the classes that both know and the images have.

    Raises:
        UnrelatedClassesError: there is none.
    """
    names = class_change(a.evaluation.classes, b.evaluation.classes).shared
    if not names and (a.evaluation.classes or b.evaluation.classes):
        raise UnrelatedClassesError(f"{a.uri} and {b.uri} share no class that these images have")
    first, second = (replace(model, evaluation=model.evaluation.over(names)) for model in (a, b))
    return first, second
