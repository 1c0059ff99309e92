import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitseg.architecture import Architecture
from vitseg.errors import UsageError
from vitseg.model.patches import PatchEmbedding, patch_grid, patchify, unpatchify


def test_a_patch_is_a_square_of_neighbors_row_by_row_with_channels_together():
    image = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)  # channel 0 counts from 0, channel 1 from 24
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 0].tolist() == [0, 24, 1, 25, 6, 30, 7, 31]
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]  # to the right of the first
    assert patches[0, 3].tolist() == [12, 36, 13, 37, 18, 42, 19, 43]  # below the first


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    patch_size=st.integers(1, 6),
)
def test_unpatchify_undoes_patchify(batch, channels, grid, patch_size):
    images = torch.rand(batch, channels, grid[0] * patch_size, grid[1] * patch_size)
    back = unpatchify(patchify(images, patch_size), grid, patch_size)
    assert torch.equal(back, images)


def test_unpatchify_keeps_the_channels_of_a_pixel_together_in_memory():
    images = unpatchify(torch.rand(2, 6, 4 * 5), (2, 3), 2)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "patch_size", "fit"),
    [((250, 250), 16, "256x256"), ((128, 250), 8, "248x128"), ((3, 64), 16, "64x16"), ((0, 64), 16, "64x16")],
)
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(size, patch_size, fit):
    with pytest.raises(UsageError) as caught:
        patch_grid(size, patch_size)
    message = str(caught.value)
    assert f"{size[1]}x{size[0]} is not a multiple of patch size {patch_size}" in message
    assert f"--size {fit}" in message
    assert "\n" not in message


def test_spatial_embedding_is_concatenated():
    embedding = PatchEmbedding(Architecture(patch_size=2, encoder_projection=10, spatial_embedding=3), (2, 2))
    tokens = embedding(torch.rand(2, 4, 12), (2, 2))
    assert embedding.width == 13
    assert tokens.shape == (2, 4, 13)
    assert torch.equal(tokens[0, :, 10:], embedding.position)
    assert torch.equal(tokens[1, :, 10:], embedding.position)


def test_spatial_embedding_is_added_as_wide_as_the_projection():
    embedding = PatchEmbedding(
        Architecture(patch_size=2, encoder_projection=10, spatial_embedding=3, position="add"), (2, 2)
    )
    assert embedding.width == 10
    assert embedding.position.shape == (4, 10)
    equal_patches = torch.rand(1, 1, 12).expand(2, 4, 12)
    tokens = embedding(equal_patches, (2, 2))
    assert torch.allclose(tokens[0, 1] - tokens[0, 0], embedding.position[1] - embedding.position[0], atol=1e-6)
