"""Recipes: presets, files and --set, and what is refused."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitseg.architecture import Architecture
from vitseg.config import load_recipe, presets, recipe_from
from vitseg.errors import NotFoundError, UsageError
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
    "model.decoder": "overlap",
    "model.target": "rgb",
    "loss.rgb": "squared",
    "loss.class_weights": "balanced",
    "optimizer.name": "muon",
    "optimizer.schedule": "constant",
    "masked.decoder_width": 64,
    "run.select": "last",
    "run.precision": "bfloat16",
}


def refusal(*overrides: str, file: Path | None = None) -> str:
    """Return the one line that refuses a recipe."""
    with pytest.raises(UsageError) as caught:
        load_recipe(file=file, overrides=overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_all_presets_are_valid_and_differ() -> None:
    assert presets() == ["base", "paper", "small", "tiny", "vit-base"]
    assert len({load_recipe(preset).digest() for preset in presets()}) == len(presets())


def test_an_unknown_preset_is_answered_with_the_choice() -> None:
    with pytest.raises(UsageError, match="choose base, paper, small, tiny, vit-base"):
        load_recipe("huge")


def test_the_sections_are_all_of_a_recipe() -> None:
    assert {row.name: row.default_factory for row in dataclasses.fields(Recipe)} == SECTIONS


def attributes_read() -> set[str]:
    """Return every attribute that any source but config.py reads, of anything but `self`."""
    found = set()
    for path in [*ROOT.glob("vitseg/**/*.py"), *ROOT.glob("flows/**/*.py")]:
        if path.name != "config.py":
            reads = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
            found |= {n.attr for n in reads if isinstance(n.ctx, ast.Load) and ast.unparse(n.value) != "self"}
    return found


READ = attributes_read()


@pytest.mark.parametrize("name", FIELDS)
def test_every_knob_is_connected(name: str) -> None:
    assert name.split(".")[1] in READ, f"no source reads {name}"


def test_layers_lie_over_each_other_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[run]\nepochs = 7\nseed = 3\n[optimizer]\nlearning_rate = 1\n")
    recipe = load_recipe("tiny", file, ["run.epochs=9", "run.epochs = 8"])
    assert (recipe.run.epochs, recipe.run.seed, recipe.optimizer.learning_rate) == (8, 3, 1.0)
    assert isinstance(recipe.optimizer.learning_rate, float)
    assert recipe.run.checkpoint_steps == load_recipe("tiny").run.checkpoint_steps


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.target=rgb", "rgb"),
        ('model.target="rgb"', "rgb"),
        ("data.flip=false", False),
        ("run.epochs=1_000", 1000),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.weight_decay=0", 0.0),
        ("model.mlp_units=[64, 32]", (64, 32)),
        ("model.decoder_mlp_units=[]", ()),
    ],
)
def test_set_reads_values_as_toml(text: str, value: object) -> None:
    section, key = text.partition("=")[0].split(".")
    found = getattr(getattr(load_recipe(overrides=[text]), section), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["run.epochs", "epochs=3", "run.epochs.more=3", "=3", ""])
def test_set_without_section_key_and_value_is_explained(text: str) -> None:
    assert "SECTION.KEY=VALUE" in refusal(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("run.epoch=3", "did you mean run.epochs?"),
        ("optimzer.learning_rate=1", "did you mean optimizer?"),
        ("optimizer.learn_rate=1", "did you mean optimizer.learning_rate?"),
        ("model.zzz=1", "it knows blocks, class_token"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(text: str, hint: str) -> None:
    assert hint in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "run.epochs=2.5",
        "run.epochs=true",
        "run.epochs=many",
        "run.epochs=",
        "data.flip=1",
        "optimizer.learning_rate=true",
        "optimizer.learning_rate=fast",
        "model.target=3",
        "model.mlp_units=64",
        "model.mlp_units=[64, true]",
        "model.mlp_units=[64.0]",
    ],
)
def test_a_value_of_the_wrong_type_is_named(text: str) -> None:
    assert f"{text.partition('=')[0]} = " in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{name}=0"
            for name in FIELDS
            if name.startswith(("data.", "run.")) and name not in ("data.flip", "run.seed", "run.patience")
        ),
        *("model.blocks=0", "model.patch_size=-8", "model.mlp_units=[]", "model.mlp_units=[64, 0]"),
        *("model.decoder_mlp_units=[0]", "model.dropout=1", "model.dropout=nan", "model.position=rotary"),
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


def test_a_batch_must_be_cut_evenly() -> None:
    assert "multiple of optimizer.accumulate" in refusal("data.batch_size=16", "optimizer.accumulate=3")


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.toml can't be read: No such file"):
        load_recipe(file=tmp_path / "gone.toml")
    file = tmp_path / "bad.toml"
    for content in (b"epochs: 3", b"\xff\xfe", b"[run]\n[run]\n"):
        file.write_bytes(content)
        assert f"{file} is not TOML" in refusal(file=file)
    file.write_text("run = 3")
    assert "run is a section" in refusal(file=file)
    file.write_text("[run]\nepochs = {a = 1}")
    assert "run.epochs" in refusal(file=file)


def other(name: str, value: Any) -> Any:
    """Return another value that the field allows too."""
    if isinstance(value, bool):
        return not value
    if name in OTHER_WORDS:
        return OTHER_WORDS[name]
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    if isinstance(value, float):
        return value / 2 + 0.25
    return 2 * value if name in ("model.fine_width", "model.fine_heads") else value + 1  # one must divide the other


HOW = {"data.decode_threads", "run.checkpoint_steps", "run.keep_checkpoints", "run.log_steps", "run.panel_epochs"}
HOW |= {"run.hang_minutes", "run.compile"}


@pytest.mark.parametrize("name", FIELDS)
def test_the_digest_changes_with_what_is_computed_and_not_with_how(name: str) -> None:
    recipe = Recipe()
    section, key = name.split(".")
    part = getattr(recipe, section)
    changed = dataclasses.replace(part, **{key: other(name, getattr(part, key))})
    same = dataclasses.replace(recipe, **{section: changed}).digest() == recipe.digest()
    assert same == (name in HOW)


@given(st.sampled_from(["tiny", "small", "base"]), st.integers(1, 10**6), st.floats(1e-9, 1.0))
def test_a_recipe_survives_json(preset: str, epochs: int, rate: float) -> None:
    recipe = load_recipe(preset, overrides=[f"run.epochs={epochs}", f"optimizer.learning_rate={rate!r}"])
    again = recipe_from(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.patch_size=14", "model.fine_patch=7"], "must be even"),
        (["model.patch_size=15", "model.fine_patch=0"], "must be even"),
        (["model.patch_size=8", "model.fine_patch=3"], "must divide"),
    ],
)
def test_finer_patches_that_can_not_overlap_are_refused(overrides: list[str], words: str) -> None:
    assert words in refusal(*overrides)
