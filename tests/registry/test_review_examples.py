"""Which images a reviewer is shown."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.labels import Label
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry.review_examples import draw_examples, ids_in_data, select_examples


def confusions(*shares: float) -> torch.Tensor:
    return torch.stack([torch.tensor([[round(100 * share), 100 - round(100 * share)], [0, 0]]) for share in shares])


def test_the_worst_images_come_first_then_those_that_lost_most() -> None:
    ours, champions = confusions(0.9, 0.2, 0.7, 0.5, 0.95), confusions(0.95, 0.1, 0.99, 0.5, 0.94)
    assert select_examples(ours, None, 2) == [1, 3]
    assert select_examples(ours, champions, 2) == [1, 3, 2, 0]
    assert select_examples(ours, ours, 1) == [1]  # nothing lost anything
    assert select_examples(confusions(0.5), confusions(0.6), 3) == [0]


def test_a_row_holds_photo_ground_truth_and_each_model(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    bundles = []
    for seed in (0, 1):
        model = build_model(small_recipe().model, manifest.image_size, len(manifest.classes), seed)
        model.decoder.head.bias.data[seed :: len(manifest.classes)] += 100.0  # one class everywhere
        save_bundle(tmp_path / str(seed), model, manifest.classes)
        bundles.append(load_bundle(tmp_path / str(seed)))
    sheet = np.asarray(draw_examples(shards, "val", [4, 0], {"champion": bundles[0], "this": bundles[1]}))
    for bundle, seed in zip(bundles, (0, 1), strict=True):
        painted = (sheet == bundle.palette[seed]).all(-1)
        columns = np.flatnonzero(painted.sum(0) > 0.6 * painted.sum(0).max())
        assert columns.min() > (2 + seed) * sheet.shape[1] / 4 - 5  # its own column, the third or fourth
        assert painted.any(1).sum() > 100  # two rows of images


def test_classes_are_matched_by_name_and_have_the_colors_of_the_data_set(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    classes = tuple(  # road is the last class of this model, in another color, and its images are larger
        dataclasses.replace(label, color=(1, 2, place), train_id=place)
        for place, label in enumerate((*manifest.classes[1:3], Label("kerb", (0, 0, 0), 9), manifest.classes[0]))
    )
    model = build_model(small_recipe().model, (64, 128), 4, seed=0)
    model.decoder.head.bias.data[3::4] += 100.0  # road everywhere
    save_bundle(tmp_path, model, classes)
    bundle = load_bundle(tmp_path)
    numbers, colors = ids_in_data(bundle, manifest.classes)
    assert numbers[:4].tolist() == [1, 2, -1, 0]
    assert colors[:4].tolist() == [list(manifest.classes[k].color) for k in (1, 2)] + [
        [1, 2, 2],
        list(manifest.classes[0].color),
    ]
    sheet = np.asarray(draw_examples(shards, "val", [0], {"champion": bundle}))
    painted = (sheet == manifest.classes[0].color).all(-1)
    assert painted[:, -sheet.shape[1] // 3 + 10 :].mean() > 0.5
