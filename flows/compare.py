"""Flow: two models on the same images → the differences of their metrics, with 95% intervals."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.evaluate import EvaluatedModel, evaluate_model, over_shared_classes
from vitseg.class_change import class_change
from vitseg.data.manifest import read_manifest
from vitseg.registry.comparison import Difference, differences
from vitseg.registry.provenance import split_digest

_MEANS = ("miou", "pixel_accuracy", "mean_absolute_error", "psnr")


@flow(name="compare", flow_run_name="compare {a} and {b}")
def compare(a: str, b: str, *, shards: str, split: str = "val") -> dict[str, Any]:
    """Measure two models on the same images, over the classes that both know; with classes, differences have 95% intervals.

    Args:
        a: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.
        b: another one.
        shards: address of the folder that holds manifest.json.
        split: split of the data set.
    """
    first = evaluate_model(a, shards, split, keep_images=True)
    measured = (first, evaluate_model(b, shards, split, keep_images=True, precision=first.precision))
    change = class_change(*(model.class_names for model in measured))
    models = over_shared_classes(*measured)
    before, after = (_metrics(model, split) for model in models)
    changes = model_differences(*models)
    if changes:
        table = [{"metric": name, **vars(row)} for name, row in changes.items()]
        title = f"{after['model']} against {before['model']}, {split} of {shards}"
        create_table_artifact(table, key="comparison", description=title)
    pairs = {name: (before[name], after[name]) for name in _MEANS}
    return {
        "shards": shards,
        "split": split,
        "holdout": split_digest(read_manifest(shards), split),
        "images": before["samples"],
        "a": before,
        "b": after,
        "only_a_knows": list(change.removed),
        "only_b_knows": list(change.added),
        "delta": {name: pair[1] - pair[0] if None not in pair else None for name, pair in pairs.items()},
        "differences": differences_to_json(changes),
    }


def model_differences(a: EvaluatedModel, b: EvaluatedModel) -> dict[str, Difference]:
    """Return the differences of two models over the same classes of the same images; {} for models without classes."""
    first, second = a.evaluation.images, b.evaluation.images
    return {} if first is None or second is None else differences(first, second, a.evaluation.classes)


def differences_to_json(changes: dict[str, Difference]) -> dict[str, Any]:
    """Return differences as JSON's objects, by metric."""
    return {name: {**vars(row), "significant": row.is_significant} for name, row in changes.items()}


def _metrics(model: EvaluatedModel, split: str) -> dict[str, Any]:
    speed = model.evaluation.images_per_second
    return {**model.evaluation.to_json(), "model": model.uri, "split": split, "images_per_second": speed}


def comparison_lines(result: dict[str, Any]) -> dict[str, str]:
    """Return the result of `compare` as text for people: a line per metric, from A to B."""
    a, b = result["a"], result["b"]
    lines = {
        "a": a["model"],
        "b": b["model"],
        "on": f"{result['images']} images, {result['split']} of {result['shards']} (holdout {result['holdout']})",
    }
    for key in ("only_a_knows", "only_b_knows"):
        if result[key]:
            lines[f"{key.replace('_', ' ')}, so not compared"] = ", ".join(result[key])
    for name, row in result["differences"].items():
        lines[name] = _arrow(row["a"], row["b"], ".3f")
        if row["delta"] is not None:
            lines[name] += f"  {row['delta']:+.3f}, 95%: {row['low']:+.3f} to {row['high']:+.3f}"
            lines[name] += "" if row["significant"] else "  (not significant)"
    if not result["differences"]:
        lines["psnr"] = " → ".join("∞" if one["psnr"] is None else f"{one['psnr']:.2f} dB" for one in (a, b))
    for patch, sides in b["seam_ratio"].items():
        for side, after in sides.items():
            before = a["seam_ratio"].get(patch, {}).get(side)
            lines[f"seam ratio, {side}, {patch}-pixel patches"] = _arrow(before, after, ".2f")
    return {**lines, "images/s": _arrow(a["images_per_second"], b["images_per_second"], ".1f")}


def _arrow(before: float | None, after: float | None, digits: str) -> str:
    return " → ".join("–" if value is None else f"{value:{digits}}" for value in (before, after))
