"""Recipes: every key is read, checked, and part of the digest where it changes the weights."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitseg.architecture import Architecture
from vitseg.config import load_recipe, load_request, recipe_from
from vitseg.errors import UsageError
from vitseg.recipe import (
    AugmentRecipe,
    DataRecipe,
    LossRecipe,
    MaskedRecipe,
    OptimizerRecipe,
    Recipe,
    RunRecipe,
)

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "model": Architecture,
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "loss": LossRecipe,
    "optimizer": OptimizerRecipe,
    "masked": MaskedRecipe,
    "run": RunRecipe,
}
FIELDS = [f"{section}.{row.name}" for section, kind in SECTIONS.items() for row in dataclasses.fields(kind)]
OTHER_WORDS: dict[str, Any] = {
    "model.pixels": "image",
    "model.position": "add",
    "model.normalization": "none",
    "model.activation": "swiglu",
    "model.decoder": "spiral",
    "model.encoder": "frozen",
    "model.target": "rgb",
    "loss.rgb": "squared",
    "loss.class_weights": "balanced",
    "optimizer.name": "muon",
    "optimizer.schedule": "constant",
    "masked.decoder_width": 64,
    "run.select": "last",
    "run.precision": "bfloat16",
}


def refusal(*overrides: str) -> str:
    """Return the message that refuses options."""
    with pytest.raises(UsageError) as caught:
        load_recipe(overrides=overrides)
    return str(caught.value)


def test_the_sections_are_all_of_a_recipe() -> None:
    assert {row.name: row.default_factory for row in dataclasses.fields(Recipe)} == SECTIONS


def attributes_read() -> set[str]:
    """Return the attributes that sources other than config.py read, of anything but `self`."""
    found = set()
    for path in [*ROOT.glob("vitseg/**/*.py"), *ROOT.glob("flows/**/*.py")]:
        if path.name != "config.py":
            reads = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
            found |= {n.attr for n in reads if isinstance(n.ctx, ast.Load) and ast.unparse(n.value) != "self"}
    return found


READ = attributes_read()


@pytest.mark.parametrize("name", FIELDS)
def test_every_key_is_read_somewhere(name: str) -> None:
    assert name.split(".")[1] in READ, f"no source reads {name}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{name}=0"
            for name in FIELDS
            if name.startswith(("data.", "run.")) and name not in ("data.flip", "run.seed", "run.patience")
        ),
        *("model.blocks=0", "model.patch_size=-8", "model.mlp_units=[]", "model.mlp_units=[64, 0]"),
        *(
            "model.decoder_mlp_units=[0]",
            "model.dropout=1",
            "model.encoder=0",
            "model.encoder=thawed",
            "model.encoder=5",  # of four blocks
            "model.dropout=nan",
            "model.position=polar",
            "model.registers=-1",
        ),
        *("model.target=depth", "optimizer.learning_rate=0", "optimizer.learning_rate=nan"),
        *("optimizer.weight_decay=-1", "optimizer.warmup_share=1.0", "optimizer.schedule=step"),
        *(
            "optimizer.clip_norm=-1",
            "optimizer.accumulate=0",
            "optimizer.average=1.0",
            "run.seed=-1",
            "run.patience=-1",
            "run.seed=4294967296",
        ),
    ],
)
def test_a_value_out_of_range_is_named(text: str) -> None:
    assert text.partition("=")[0] in refusal(text)


def test_keys_of_the_decoder_that_went_are_named() -> None:
    assert "model.fine_heads: only the old decoder overlap had it: leave it out" in refusal("model.fine_heads=4")


def test_a_batch_must_be_cut_evenly() -> None:
    assert "multiple of optimizer.accumulate" in refusal("data.batch_size=16", "optimizer.accumulate=3")


def other(name: str, value: Any) -> Any:
    """Return another valid value of a field."""
    if isinstance(value, bool):
        return not value
    if name in OTHER_WORDS:
        return OTHER_WORDS[name]
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    if isinstance(value, float):
        return value / 2 + 0.25
    return value + 1


WITHOUT_EFFECT = {
    "data.decode_threads",
    "run.checkpoint_steps",
    "run.keep_checkpoints",
    "run.log_steps",
    "run.panel_epochs",
}
WITHOUT_EFFECT |= {"run.hang_minutes", "run.compile", "run.cuda_graph"}


@pytest.mark.parametrize("name", FIELDS)
def test_the_digest_changes_with_what_is_computed_and_not_with_how_it_is(name: str) -> None:
    recipe = Recipe()
    section, key = name.split(".")
    part = getattr(recipe, section)
    changed = dataclasses.replace(part, **{key: other(name, getattr(part, key))})
    same = dataclasses.replace(recipe, **{section: changed}).digest() == recipe.digest()
    assert same == (name in WITHOUT_EFFECT)


def test_a_request_has_the_digest_of_its_recipe_unless_it_leaves_something_to_the_device() -> None:
    auto = "data.batch_size=auto"
    numbers = [["data.batch_size=16"], ["data.batch_size=32"]]
    open_ones = [
        [auto],
        [auto, "optimizer.learning_rate=0.004"],
        [auto, "optimizer.learning_rate=0.001"],
        [auto, "run.epochs=7"],
    ]
    digests = [load_request("small", None, overrides).digest() for overrides in numbers + open_ones]
    assert digests[:2] == [load_recipe("small", None, overrides).digest() for overrides in numbers]
    assert len(set(digests)) == len(digests)
    assert load_request("small", None, [auto, "run.log_steps=3"]).digest() == digests[2]


@given(st.sampled_from(["tiny", "small", "base"]), st.integers(1, 10**6), st.floats(1e-9, 1.0))
def test_a_recipe_survives_json(preset: str, epochs: int, rate: float) -> None:
    recipe = load_recipe(preset, overrides=[f"run.epochs={epochs}", f"optimizer.learning_rate={rate!r}"])
    again = recipe_from(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_heads_that_can_not_be_rotated_are_refused() -> None:
    assert "model.head_width = 6 must be a multiple of 4" in refusal("model.position=rotary", "model.head_width=6")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.patch_size=8", "model.fine_patch=3"], "must divide"),
        (["model.fine_width=48"], "must be a multiple of 32"),
        (["model.fine_blocks=0"], "must be 1 or more"),
    ],
)
def test_finer_patches_that_can_not_be_are_refused(overrides: list[str], words: str) -> None:
    assert words in refusal(*overrides)
