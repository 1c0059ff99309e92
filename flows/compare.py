"""Flow: two models on the same images, now → how they differ, and how sure that is."""

from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.display.console import note, progress
from vitseg.data.manifest import read_manifest
from vitseg.evaluation import Evaluation, evaluate_bundle
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.registry import versions
from vitseg.registry.comparison import Difference, Result, differences, holdout_digest
from vitseg.seams import seam_ratios, worst_seam


@dataclass(frozen=True)
class Measured:
    """A model and how it did."""

    uri: str
    bundle: Bundle
    evaluation: Evaluation

    @property
    def result(self) -> Result:
        """What the registry's gate and page ask for."""
        found = self.evaluation
        worst = worst_seam(seam_ratios(found.seams))
        return Result(found.classes, found.samples, found.images, found.psnr, found.images_per_second, worst)


_MEANS = ("miou", "pixel_accuracy", "mean_absolute_error", "psnr")


@flow(name="compare", flow_run_name="compare {a} and {b}")
def compare(a: str, b: str, *, shards: str, split: str = "val") -> dict[str, Any]:
    """Measure two models now, on the same images; where these have classes, with 95 % intervals.

    Args:
        a: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.
        b: another one.
        shards: address of the folder that holds manifest.json.
        split: split of the data set.
    """
    first, second = measure(a, shards, split), measure(b, shards, split)
    numbers = [_numbers(one, split) for one in (first, second)]
    pairs = {key: (numbers[0][key], numbers[1][key]) for key in _MEANS}
    rows = rows_of(first.evaluation, second.evaluation)
    if rows:
        table = [{"metric": name, **vars(row)} for name, row in rows.items()]
        create_table_artifact(
            table, key="comparison", description=f"{second.uri} against {first.uri}, {split} of {shards}"
        )
    return {
        "shards": shards,
        "split": split,
        "holdout": holdout_digest(read_manifest(shards), split),
        "images": first.evaluation.samples,
        "a": numbers[0],
        "b": numbers[1],
        "delta": {
            key: after - before if None not in (before, after) else None for key, (before, after) in pairs.items()
        },
        "differences": {name: {**vars(row), "sure": row.sure} for name, row in rows.items()},
    }


def measure(address: str, shards: str, split: str) -> Measured:
    """Measure one model now, image by image."""
    version, folder = versions.open_model(address)
    note(f"evaluating {version.uri} on {split} of {shards}")
    bundle = load_bundle(folder)
    with progress("evaluating", unit="images") as show:
        return Measured(version.uri, bundle, evaluate_bundle(bundle, shards, split, progress=show, keep_images=True))


def rows_of(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """Return the differences of two evaluations of the same images; none where there are no classes to count."""
    if first.images is None or second.images is None:
        return {}
    return differences(first.images, second.images, first.classes)


def _numbers(one: Measured, split: str) -> dict[str, Any]:
    speed = one.evaluation.images_per_second
    return {**one.evaluation.to_json(), "model": one.uri, "split": split, "images_per_second": speed}


def in_words(result: dict[str, Any]) -> dict[str, str]:
    """Return a comparison as a person reads it: a line a metric, B against A."""
    a, b = result["a"], result["b"]
    said = {
        "a": a["model"],
        "b": b["model"],
        "on": f"{result['images']} images, {result['split']} of {result['shards']} (holdout {result['holdout']})",
    }
    for name, row in result["differences"].items():
        if row["delta"] is not None:
            sure = "" if row["sure"] else "  (may be chance)"
            said[name] = (
                f"{row['a']:.3f} → {row['b']:.3f}  {row['delta']:+.3f}, 95 %: {row['low']:+.3f} to {row['high']:+.3f}{sure}"
            )
        else:
            said[name] = " → ".join("–" if row[side] is None else f"{row[side]:.3f}" for side in ("a", "b"))
    if not result["differences"]:
        said["psnr"] = " → ".join("∞" if one["psnr"] is None else f"{one['psnr']:.2f} dB" for one in (a, b))
    for patch, sides in b["seam_ratio"].items():
        before = a["seam_ratio"].get(patch, {})
        for side, after in sides.items():
            values = ("–" if value is None else f"{value:.2f}" for value in (before.get(side), after))
            said[f"seams of {side} at {patch}"] = " → ".join(values)
    return {**said, "images a second": f"{a['images_per_second']:.1f} → {b['images_per_second']:.1f}"}
