"""Old spellings of keys: silently in files that vitseg wrote, with a warning in what a user wrote."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitseg import old_keys
from vitseg.config import load_recipe, recipe_from
from vitseg.errors import UsageError

# The recipe in a `job.json` as it was written before the keys were renamed, and the digest in that job's folder name.
OLD_RECIPE = """{"model": {"patch_size": 8, "pixels": "image", "spatial_embedding": 8, "position": "concat",
"encoder_projection": 120, "blocks": 4, "heads": 4, "head_width": 32, "mlp_units": [256, 128], "features_per_patch": 64,
"decoder_projection": 64, "decoder_mlp_units": [256], "skip_projection": false, "normalisation": "none",
"norm_epsilon": 1e-06, "class_token": false, "dropout": 0.0, "stochastic_depth": 0.0, "layer_scale": 0.0,
"decoder": "patch", "fine_patch": 8, "fine_width": 128, "fine_blocks": 1, "fine_heads": 2, "fine_reach": 2,
"narrow_width": 64, "spiral_blocks": 2, "target": "classes"}, "data": {"batch_size": 8, "shuffle_shards": 16,
"flip": true, "decode_threads": 2}, "augment": {"scale": [1.0, 1.0], "color": 0.0, "rare": 0.0}, "loss": {"rgb":
"absolute", "class_weights": "none", "label_smoothing": 0.0, "dice": 0.0}, "optimiser": {"name": "muon",
"learning_rate": 0.004, "weight_decay": 0.0001, "warmup_share": 0.05, "schedule": "cosine", "clip_norm": 1.0,
"accumulate": 1, "average": 0.9}, "masked": {"ratio": 0.75, "decoder_blocks": 1, "decoder_width": 128}, "run":
{"epochs": 2, "seed": 0, "checkpoint_steps": 30, "keep_checkpoints": 2, "log_steps": 5, "evaluate_epochs": 1,
"panel_epochs": 3, "hang_minutes": 10.0, "patience": 0, "select": "best", "precision": "auto", "compile": false,
"deterministic": false}}"""
OLD_DIGEST = "d09434599ccc"
NEW_OPTIONS = ["optimizer.average=0.9", "model.normalization=none", "run.epochs=2"]
OF_ITS_TIME = [
    "model.decoder=patch", "model.features_per_patch=64", "model.decoder_projection=64", "model.decoder_mlp_units=[256]",
    "model.fine_patch=8", "model.fine_width=128", "optimizer.learning_rate=0.004",
]  # fmt: skip


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Return what is logged, as in a new process."""
    old_keys._warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    yield caplog
    old_keys._warn_once.cache_clear()


def test_a_job_of_an_older_version_is_found_again(warnings: pytest.LogCaptureFixture) -> None:
    values = json.loads(OLD_RECIPE)
    old = recipe_from(values | {"model": old_keys.without_overlap_keys(values["model"])})
    assert old == load_recipe("tiny", overrides=NEW_OPTIONS + OF_ITS_TIME)
    assert old.digest() == OLD_DIGEST
    assert not warnings.messages


def test_a_user_is_told_the_new_key_once(warnings: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[optimiser]\naverage = 0.9\n[model]\nnormalisation = 'none'\n")
    for _ in range(2):
        recipe = load_recipe("tiny", file, ["run.epochs=2"])
        assert recipe == load_recipe("tiny", overrides=NEW_OPTIONS)
    assert sorted(text.partition(":")[0] for text in warnings.messages) == [
        "normalisation is called normalization now",
        "optimiser is called optimizer now",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimiser.average=0.9", "optimizer.learning_rate=1"],
        ["model.normalization=none", "model.normalisation=none"],
    ],
)
def test_both_spellings_at_once_are_refused(overrides: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^(\w+) is the old name of (\w+): set \2 only$"):
        load_recipe(overrides=overrides)


def test_a_file_in_the_old_spelling_lies_below_options_in_the_new(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[optimiser]\naverage = 0.9\n")
    recipe = load_recipe("tiny", file, ["optimizer.average=0.5"])
    assert recipe.optimizer.average == 0.5


def test_what_is_no_table_stays_as_it_is() -> None:
    assert old_keys.rename_keys({"optimiser": 3, "other": [{"optimiser": 4}]}) == {
        "optimizer": 3,
        "other": [{"optimiser": 4}],
    }
    assert old_keys.rename_keys("optimiser") == "optimiser"
