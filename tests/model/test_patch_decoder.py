import torch

from vitseg.architecture import Architecture
from vitseg.model.patch_decoder import PatchDecoder

ARCH = Architecture(patch_size=2, features_per_patch=5, decoder_projection=6, decoder_mlp_units=(8, 7))


def test_every_patch_becomes_its_pixels_by_itself():
    torch.manual_seed(0)
    decoder = PatchDecoder(ARCH, channels=3)
    features, patches = torch.rand(2, 4, 5), torch.rand(2, 4, 12)
    whole = decoder(features, patches, (2, 2))
    assert whole.shape == (2, 3, 4, 4)
    alone = decoder(features[:, 2:3], patches[:, 2:3], (1, 1))
    assert torch.allclose(alone, whole[:, :, 2:, :2], atol=1e-6)


def test_both_features_and_original_patches_count():
    torch.manual_seed(0)
    decoder = PatchDecoder(ARCH, channels=3)
    features, patches = torch.rand(1, 4, 5), torch.rand(1, 4, 12)
    output = decoder(features, patches, (2, 2))
    assert not torch.allclose(decoder(features + torch.rand(5), patches, (2, 2)), output, atol=1e-4)
    assert not torch.allclose(decoder(features, patches + torch.rand(12), (2, 2)), output, atol=1e-4)


def test_decoder_without_hidden_layers_is_one_linear_head():
    decoder = PatchDecoder(Architecture(patch_size=2, decoder_mlp_units=()), channels=19)
    assert len(decoder.mlp.layers) == 1
    assert decoder.mlp.layers[0].out_features == 4 * 19
