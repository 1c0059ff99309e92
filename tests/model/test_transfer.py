"""Which weights of one network another one starts from."""

import dataclasses

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.segmenter import build_model
from vitseg.model.transfer import POSITION, option, transfer_weights

ARCH = Architecture(
    patch_size=4, encoder_projection=24, blocks=1, heads=2, head_width=8, mlp_units=(32, 32), features_per_patch=8,
    decoder_projection=8, decoder_mlp_units=(16,),
)  # fmt: skip
SIZE = (8, 12)
WEIGHTS = build_model(ARCH, SIZE, 3, seed=0).state_dict()


def test_everything_that_fits_is_taken() -> None:
    new = build_model(ARCH, SIZE, 5, seed=1).state_dict()
    found = transfer_weights(WEIGHTS, (ARCH, SIZE), (ARCH, SIZE), new)
    assert found.tensors.keys() == new.keys() - {
        "mean",
        "std",
        "decoder.mlp.layers.1.weight",
        "decoder.mlp.layers.1.bias",
    }
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in found.tensors.items())
    assert found.taken.endswith("new are 2 tensors: decoder.mlp.layers.1.weight, decoder.mlp.layers.1.bias")


def test_of_another_decoder_nothing_is_taken() -> None:
    other = dataclasses.replace(ARCH, target="rgb")
    new = build_model(other, SIZE, 3, seed=1).state_dict()
    found = transfer_weights(WEIGHTS, (ARCH, SIZE), (other, SIZE), new)
    assert all(name.startswith("encoder.") for name in found.tensors)
    assert "nothing of the decoder" in found.taken


def test_positions_are_resampled_to_the_new_grid() -> None:
    new = build_model(ARCH, (12, 12), 3, seed=1).state_dict()
    found = transfer_weights(WEIGHTS, (ARCH, SIZE), (ARCH, (12, 12)), new)
    assert found.tensors[POSITION].shape == (9, 8)
    assert "2×3 to 3×3 patches" in found.taken


def test_rotary_positions_fit_every_grid() -> None:
    rotary = dataclasses.replace(ARCH, position="rotary", registers=2)
    weights = build_model(rotary, SIZE, 3, seed=0).state_dict()
    new = build_model(rotary, (12, 12), 3, seed=1).state_dict()
    found = transfer_weights(weights, (rotary, SIZE), (rotary, (12, 12)), new)
    assert found.tensors.keys() == new.keys() - {"mean", "std"}
    assert torch.equal(found.tensors["encoder.registers"], weights["encoder.registers"])
    assert found.taken.startswith("the encoder and")
    with pytest.raises(UsageError, match=r"--set model.position=rotary --set model.registers=2 makes them equal"):
        transfer_weights(weights, (rotary, SIZE), (ARCH, SIZE), {})


def test_another_encoder_is_refused_with_the_options_that_fit() -> None:
    other = dataclasses.replace(ARCH, heads=4, layer_scale=0.1)
    with pytest.raises(UsageError, match=r"--set model.heads=2 --set model.layer_scale=0.0 makes them equal"):
        transfer_weights(WEIGHTS, (ARCH, SIZE), (other, SIZE), {})


def test_weights_without_positions_are_refused() -> None:
    without = {name: value for name, value in WEIGHTS.items() if name != POSITION}
    with pytest.raises(DataError, match=r"it holds no encoder\.embedding\.position for 2×3 patches"):
        transfer_weights(without, (ARCH, SIZE), (ARCH, SIZE), WEIGHTS)


@pytest.mark.parametrize(("value", "text"), [(True, "true"), ((64, 32), "[64,32]"), (0.5, "0.5"), ("add", "add")])
def test_values_are_written_as_set_takes_them(value: object, text: str) -> None:
    assert option(value) == text
