import torch

from vitseg.model.encoder import VisionTransformer
from vitseg.recipe import Architecture

ARCH = Architecture(
    patch_size=2, spatial_embedding=4, encoder_projection=12, blocks=2, heads=2, head_width=4,
    mlp_units=(16, 24), features_per_patch=5,
)  # fmt: skip


def test_every_patch_gets_its_features():
    assert VisionTransformer(ARCH, grid=(2, 3))(torch.rand(3, 6, 12), (2, 3)).shape == (3, 6, 5)


def test_blocks_after_the_first_work_at_the_width_of_the_mlp():
    encoder = VisionTransformer(ARCH, grid=(2, 3))
    assert encoder.blocks[0].attention_norm.normalized_shape == (16,)  # 12 + 4
    assert encoder.blocks[1].attention_norm.normalized_shape == (24,)


def test_position_matters():
    torch.manual_seed(0)
    encoder = VisionTransformer(ARCH, grid=(2, 3))
    patches = torch.rand(1, 6, 12)
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    moved = encoder(patches[:, order], (2, 3))[:, order]  # without positions, moving patches would move features
    assert not torch.allclose(encoder(patches, (2, 3)), moved, atol=1e-4)
    torch.nn.init.zeros_(encoder.embedding.position)
    assert torch.allclose(encoder(patches, (2, 3)), encoder(patches[:, order], (2, 3))[:, order], atol=1e-5)
