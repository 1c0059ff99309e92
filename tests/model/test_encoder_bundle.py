"""An encoder as two files comes back whole, or not at all."""

import json

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.errors import DataError
from vitseg.model.encoder_bundle import CONFIG, WEIGHTS, pack_encoder, unpack_encoder
from vitseg.model.masked_autoencoder import build_masked
from vitseg.recipe import MaskedRecipe

ARCH = Architecture(patch_size=4, encoder_projection=24, blocks=1, heads=2, head_width=8, mlp_units=(32, 32))
SIZE = (8, 12)


def test_the_encoder_alone_comes_back() -> None:
    bundle = build_masked(ARCH, SIZE, MaskedRecipe(decoder_width=32), seed=1).encoder_bundle()
    assert all(name.startswith("encoder.") and "features" not in name for name in bundle.tensors)
    files = pack_encoder(bundle, {"epochs": 3})
    config = json.loads(files[CONFIG])
    again = unpack_encoder(config, files[WEIGHTS])
    assert (again.architecture, again.image_size, config["epochs"]) == (ARCH, SIZE, 3)
    assert all(torch.equal(again.tensors[name], value) for name, value in bundle.tensors.items())
    old = {**config["architecture"], "normalisation": "layer"}  # the spelling of older versions
    del old["normalization"]
    assert unpack_encoder({**config, "architecture": old}, files[WEIGHTS]).architecture == ARCH
    for damaged in ({**config, "kind": "model"}, {**config, "sha256": "0"}, {**config, "architecture": {}}):
        with pytest.raises(DataError):
            unpack_encoder(damaged, files[WEIGHTS])
