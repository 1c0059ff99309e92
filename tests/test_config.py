"""How a recipe is read: presets, files and --set, and what is refused."""

import dataclasses
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from vitseg.config import load_layers, load_recipe, load_request
from vitseg.errors import NotFoundError, UsageError
from vitseg.recipes import PRESETS, TRANSFER


def refusal(*overrides: str, file: Path | None = None) -> str:
    """Return the one line that refuses a recipe."""
    with pytest.raises(UsageError) as caught:
        load_recipe(file=file, overrides=overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_all_presets_are_valid_and_differ() -> None:
    files = resources.files("vitseg").joinpath("recipes").iterdir()
    assert {f"{name}.toml" for name in (*PRESETS, TRANSFER)} == {
        file.name for file in files if file.name.endswith(".toml")
    }
    assert len({load_recipe(preset).digest() for preset in PRESETS}) == len(PRESETS)


def test_an_unknown_preset_is_refused_with_the_choice() -> None:
    with pytest.raises(UsageError, match="choose tiny, small, base, vit-base, paper"):
        load_recipe("huge")


def test_a_file_overrides_the_preset_and_options_override_both(tmp_path: Path) -> None:
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
def test_set_without_section_key_and_value_is_refused_with_an_example(text: str) -> None:
    assert "SECTION.KEY=VALUE" in refusal(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("run.epoch=3", "did you mean run.epochs?"),
        ("optimzer.learning_rate=1", "did you mean optimizer?"),
        ("optimizer.learn_rate=1", "did you mean optimizer.learning_rate?"),
        ("model.zzz=1", "it knows activation, blocks, class_token"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(text: str, hint: str) -> None:
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


def test_a_batch_is_left_to_the_device_by_whoever_speaks_last(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data]\nbatch_size = 'auto'\n")
    asked = load_request("small", file)
    assert (asked.auto_batch, asked.own_rate) == (True, False)
    assert asked.recipe == load_recipe("small") == load_recipe("small", file)  # until a batch is chosen, the preset's
    assert load_request("small", file, ["data.batch_size=4"]) == load_request("small", overrides=["data.batch_size=4"])
    file.write_text("[data]\nbatch_size = 4\n[optimizer]\nlearning_rate = 0.004\n")
    asked = load_request("small", file, ["data.batch_size=auto"])
    assert (asked.auto_batch, asked.own_rate, asked.recipe.data.batch_size) == (True, True, 16)
    for parts, batch in ((3, 18), (16, 16)):
        overrides = ["data.batch_size=auto", f"optimizer.accumulate={parts}"]
        assert load_request("small", None, overrides).recipe.data.batch_size == batch


@pytest.mark.parametrize("text", ["optimizer.accumulate=0", "optimizer.accumulate=many"])
def test_what_is_wrong_is_refused_with_an_automatic_batch_too(text: str) -> None:
    assert text.partition("=")[0] in refusal("data.batch_size=auto", text)


def test_a_section_that_is_none_is_refused_with_an_automatic_batch_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for section in ("data", "optimizer"):
        file.write_text(f"{section} = 3")
        assert f"{section} is a section" in refusal(file=file)
    assert "optimizer is a section" in refusal("data.batch_size=auto", file=file)


def shipped(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("vitseg") / "recipes" / f"{name}.toml").read_text())


ENCODER = {"patch_size": 14, "position": "add", "heads": 6, "mlp_units": (32, 24)}


def test_the_user_s_own_keys_are_known(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[run]\nepochs = 3\n[optimiser]\nlearning_rate = 0.1\n")
    own = load_request("small", file, ["model.heads=2"]).own_keys
    assert own == {"run.epochs", "optimizer.learning_rate", "model.heads"}


def test_a_start_lays_its_encoder_and_recipe_under_the_user_s_own_keys() -> None:
    preset = load_request("tiny").recipe.optimizer
    layers = load_layers("tiny", None, ["optimizer.weight_decay=0.3", "model.dropout=0.1"])
    before, found = layers.request().recipe, layers.request(ENCODER).recipe
    assert before.optimizer == dataclasses.replace(preset, weight_decay=0.3)
    rates = shipped(TRANSFER)["optimizer"]
    assert {key: getattr(found.optimizer, key) for key in rates} == {**rates, "weight_decay": 0.3}
    assert (found.model.patch_size, found.model.heads, found.model.mlp_units) == (14, 6, (32, 24))
    assert (found.model.decoder, found.model.fine_width, found.model.dropout) == ("attention", 96, 0.1)


def test_a_frozen_start_is_not_augmented_for_its_features_are_kept_and_colors_have_no_dice_loss() -> None:
    plain, told = load_recipe("tiny"), shipped(TRANSFER)
    for preset in ("small", "paper"):  # which augments; which has colors as its target
        frozen = load_layers(preset, None, ["model.encoder=frozen", "augment.rare=0.5"]).request(ENCODER).recipe
        assert frozen.augment == dataclasses.replace(plain.augment, rare=0.5)
    assert load_layers("paper").request(ENCODER).recipe.loss.dice == 0
    for own, augmented, dice in [
        ([], True, True),
        (["model.encoder=frozen"], False, True),
        (["model.target=rgb"], True, False),
    ]:
        found = load_layers("tiny", None, own).request(ENCODER).recipe
        assert (found.augment != plain.augment, found.loss.dice) == (augmented, told["loss"]["dice"] if dice else 0)
    asked = load_layers("tiny", None, ["model.encoder=frozen", "augment.color=0.1"])
    assert asked.request(ENCODER).recipe.augment.color == 0.1


def test_rates_fit_the_batches_of_a_preset_that_keeps_its_own() -> None:
    told, sections = shipped(TRANSFER), ("model", "optimizer")
    for preset, factor in (("tiny", 1.0), ("small", 2**0.5), ("base", 8**0.5)):
        found = load_layers(preset).request(ENCODER, sections=sections).recipe
        assert found.data == load_recipe(preset).data
        for key in ("learning_rate", "encoder_rate"):
            assert getattr(found.optimizer, key) == pytest.approx(told["optimizer"][key] * factor, rel=0.01)
    whole = load_layers("base").request(ENCODER).recipe
    assert (whole.data.batch_size, whole.optimizer.learning_rate) == (
        told["data"]["batch_size"], told["optimizer"]["learning_rate"],
    )  # fmt: skip


def test_finer_patches_of_the_preset_fit_the_patches_of_a_start() -> None:
    for patch_size, fine in ((14, 7), (16, 4), (8, 4), (6, 3), (7, 7)):
        assert load_layers("tiny").request({"patch_size": patch_size}).recipe.model.fine_patch == fine
    own = load_layers("tiny", None, ["model.fine_patch=2"])
    assert own.request({"patch_size": 14}).recipe.model.fine_patch == 2
    with pytest.raises(UsageError, match="fine_patch must divide"):
        own.request({"patch_size": 7})


def test_a_start_with_fewer_blocks_than_depths_gives_the_depths_that_it_has() -> None:
    assert shipped(TRANSFER)["model"]["depths"] > 2
    assert load_layers("tiny").request({"blocks": 2}).recipe.model.depths == 2
    assert load_layers("tiny", None, ["model.depths=1"]).request({"blocks": 2}).recipe.model.depths == 1


def test_a_start_with_a_decoder_keeps_the_depths_that_it_was_trained_on() -> None:
    assert load_layers("tiny").request({"blocks": 12, "depths": 1}).recipe.model.depths == 1


def test_a_key_that_contradicts_the_encoder_of_a_start_is_refused_but_its_free_ones_are_not() -> None:
    with pytest.raises(UsageError, match=r"model.heads is set to 4, but its encoder has 6: leave model.heads out"):
        load_layers("tiny", None, ["model.heads=4"]).request(ENCODER)
    layers = load_layers("tiny", None, ["model.patch_size=16", "model.heads=6", "model.mlp_units=[32, 24]"])
    assert layers.request(ENCODER, free={"patch_size"}).recipe.model.patch_size == 16


def test_a_batch_left_to_the_device_is_scaled_from_that_of_the_start_s_recipe() -> None:
    layers = load_layers("tiny", None, ["data.batch_size=auto", "optimizer.accumulate=3"])
    batches = [layers.request(encoder).recipe.data.batch_size for encoder in (None, {})]
    assert batches == [-(-shipped(name)["data"]["batch_size"] // 3) * 3 for name in ("tiny", TRANSFER)]
