"""The autoregressive decoder: its order, what each patch depends on, and that it learns."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.labels import CITYSCAPES, train_classes
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.patches import patchify
from vitseg.model.segmenter import Segmenter, build_model
from vitseg.model.spiral_decoder import SpiralDecoder, spiral_order
from vitseg.model.summary import count_convolutions, summarize

ARCH = Architecture(
    patch_size=4, encoder_projection=40, blocks=1, heads=2, head_width=16, mlp_units=(64, 48), features_per_patch=24,
    decoder_projection=24, decoder_mlp_units=(64,), decoder="spiral", spiral_blocks=2,
)  # fmt: skip
TARGETS = {"classes": ARCH, "rgb": dataclasses.replace(ARCH, target="rgb")}
PIXELS = 4 * 4
CHANNELS = 3
BOTH = pytest.mark.parametrize("arch", TARGETS.values(), ids=TARGETS)


def large_weights(arch: Architecture = ARCH) -> SpiralDecoder:
    """Return a decoder with larger weights than a new one's: its patches depend on each other as a trained one's do."""
    torch.manual_seed(0)
    decoder = SpiralDecoder(arch, CHANNELS).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)
    return decoder


def inputs(grid: tuple[int, int], count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    patches = grid[0] * grid[1]
    features = torch.randn(count, patches, ARCH.features_per_patch, generator=generator)
    return features, torch.randn(count, patches, PIXELS * 3, generator=generator)


def one_hot(grid: tuple[int, int], count: int = 2) -> torch.Tensor:
    classes = torch.randint(CHANNELS, (count, grid[0] * grid[1], PIXELS), generator=torch.Generator().manual_seed(2))
    return F.one_hot(classes, CHANNELS).flatten(2).float()


@pytest.mark.parametrize(
    ("grid", "order"),
    [
        ((1, 1), [0]),
        ((2, 2), [0, 1, 3, 2]),
        ((3, 3), [4, 5, 8, 7, 6, 3, 0, 1, 2]),
        ((4, 4), [5, 6, 10, 9, 8, 4, 0, 1, 2, 3, 7, 11, 15, 14, 13, 12]),
        ((2, 3), [1, 2, 5, 4, 3, 0]),
        ((3, 2), [2, 3, 5, 4, 0, 1]),
        ((1, 5), [2, 3, 1, 4, 0]),
    ],
)
def test_the_spiral_turns_clockwise_from_the_center(grid, order):
    assert spiral_order(grid).tolist() == order
    assert spiral_order(grid).dtype == torch.int64


@given(st.integers(1, 20), st.integers(1, 20))
def test_every_patch_comes_once_in_any_grid(height, width):
    assert sorted(spiral_order((height, width)).tolist()) == list(range(height * width))


@given(st.integers(1, 24), st.integers(0, 1))
def test_in_a_square_or_with_one_more_column_each_patch_touches_the_one_before(side, more):
    rows, columns = np.divmod(spiral_order((side, side + more)).numpy(), side + more)
    assert (np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1).all()


@given(st.integers(1, 24))
def test_in_a_square_the_spiral_never_turns_back_inwards(side):
    rows, columns = np.divmod(spiral_order((side, side)).numpy(), side)
    ring = np.maximum(np.abs(2 * rows - side + 1), np.abs(2 * columns - side + 1))
    assert (np.diff(ring) >= 0).all()


@BOTH
def test_a_patch_depends_on_those_before_it_and_never_on_itself_or_a_later_one(arch):
    grid, decoder = (3, 4), large_weights(arch)
    features, patches = inputs(grid)
    targets = one_hot(grid)
    order = spiral_order(grid)
    with torch.no_grad():
        before = decoder.generate(features, patches, grid, targets)
        for step, place in enumerate(order):
            changed = targets.clone()
            changed[:, place] = changed[:, place].roll(1, dims=-1)
            difference = (decoder.generate(features, patches, grid, changed) - before).abs().amax(dim=(0, 2))[order]
            assert difference[: step + 1].max() == 0
            assert (difference[step + 1 :] > 1e-5).all()


@BOTH
@pytest.mark.parametrize("grid", [(4, 4), (3, 2), (1, 5), (1, 1)])
def test_generation_with_a_cache_is_generation_without(arch, grid):
    decoder = large_weights(arch).double()
    features, patches = (tensor.double() for tensor in inputs(grid))
    produced, fed_back = (torch.zeros(2, grid[0] * grid[1], PIXELS * CHANNELS).double() for _ in range(2))
    with torch.no_grad():
        for place in spiral_order(grid):  # the whole teacher-forced pass again for each patch
            produced[:, place] = decoder.generate(features, patches, grid, fed_back)[:, place]
            values = produced[:, place].unflatten(-1, (PIXELS, CHANNELS))
            values = values.softmax(-1) if arch.target == "classes" else values.sigmoid()
            fed_back[:, place] = values.flatten(-2)
        cached = decoder.generate(features, patches, grid)
        single = decoder.float().generate(features.float(), patches.float(), grid)
    torch.testing.assert_close(cached, produced, rtol=0, atol=1e-9)
    torch.testing.assert_close(single.double(), produced, rtol=1e-5, atol=1e-4)  # of outputs up to about 10


@BOTH
def test_generation_with_gradients_is_generation_without(arch):
    grid, decoder = (4, 4), large_weights(arch).double()
    features, patches = (tensor.double() for tensor in inputs(grid))
    with torch.no_grad():
        expected = decoder.generate(features, patches, grid)
    torch.testing.assert_close(decoder.generate(features, patches, grid).detach(), expected, rtol=0, atol=1e-9)


def test_the_first_patch_depends_on_the_features_of_the_last():
    grid, decoder = (4, 4), large_weights()
    features, patches = inputs(grid)
    first, last = spiral_order(grid)[[0, -1]]
    changed = features.clone()
    changed[:, last] += 1
    with torch.no_grad():
        difference = decoder.generate(changed, patches, grid) - decoder.generate(features, patches, grid)
    assert difference[:, first].abs().max() > 1e-3


def test_equal_patches_are_told_apart_by_where_they_are():
    decoder, grid = large_weights(), (3, 4)
    features, patches = (tensor[:, :1].expand(-1, 12, -1) for tensor in inputs(grid))
    with torch.no_grad():
        decoder.begin.zero_()
        decoder.made.weight.zero_()  # without the patch before, and its position
        decoder.made.bias.zero_()
        output = decoder.generate(features, patches, grid)[0]
    assert (torch.cdist(output, output) + torch.eye(12)).min() > 0.1


@BOTH
@pytest.mark.parametrize("with_targets", [True, False])
def test_gradients_reach_the_encoder_and_every_parameter(arch, with_targets):
    grid, decoder = (3, 4), large_weights(arch).train()
    features, patches = inputs(grid)
    features.requires_grad_()
    decoder.generate(features, patches, grid, one_hot(grid) if with_targets else None).square().sum().backward()
    assert (features.grad.abs().sum(dim=-1) > 0).all()
    without = [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert without == []


def rectangles(count: int = 8, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy photographs uint8 (B, 3, H, W) of two rectangles each, and their train ids 0–2 (B, H, W)."""
    random = np.random.default_rng(0)
    labels = np.zeros((count, side, side), np.uint8)
    for label in labels:
        for train_id in (1, 2):
            top, left = random.integers(0, side - 5, 2)
            height, width = random.integers(5, 10, 2)
            label[top : top + height, left : left + width] = train_id
    colors = np.array([[90, 90, 90], [180, 80, 80], [80, 80, 180]])[labels]
    images = (colors + random.normal(0, 40, colors.shape)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


@BOTH
def test_what_it_learned_it_generates_without_targets(arch):
    images, labels = rectangles()
    targets = F.one_hot(labels.long(), CHANNELS).movedim(-1, 1).float()
    model = build_model(arch, (16, 16), CHANNELS, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min((step + 1) / 20, 1 - step / 200)
        output = model(images, targets)
        # Absolute errors stay at the median, the background, for long.
        loss = F.cross_entropy(output, labels.long()) if arch.target == "classes" else F.mse_loss(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        output = model.eval()(images)
    assert (output.argmax(1) == labels).float().mean() > 0.95
    if arch.target == "rgb":
        assert (output - targets).abs().mean() < 0.05


def test_no_convolution_and_every_layer_listed_once():
    found = summarize(ARCH, (16, 24), CHANNELS)
    assert found.convolutions == count_convolutions(Segmenter(ARCH, (16, 24), CHANNELS)) == 0
    assert sum(row.parameters for row in found.rows) == found.parameters


def test_no_convolution_among_the_operators_of_generation():
    model = build_model(ARCH, (8, 8), CHANNELS, seed=0).eval()
    images = rectangles(2, 8)[0]
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert torch.allclose(program.module()(images), model(images), atol=1e-5)
    assert any("linear" in name for name in operators)
    assert [name for name in operators if "conv" in name or "im2col" in name or "unfold" in name] == []


def test_only_the_spiral_decoder_is_trained_by_teacher_forcing():
    assert build_model(ARCH, (16, 16), CHANNELS, seed=0).teacher_forcing
    assert not build_model(dataclasses.replace(ARCH, decoder="patch"), (16, 16), CHANNELS, seed=0).teacher_forcing


def test_targets_are_cut_as_the_image_is():
    model = build_model(ARCH, (16, 16), CHANNELS, seed=0).eval()
    images, labels = rectangles(2)
    targets = F.one_hot(labels.long(), CHANNELS).movedim(-1, 1).float()
    changed = targets.clone()
    changed[:, :, 4:8, 4:8] = 1 - changed[:, :, 4:8, 4:8]  # the first patch: its own output does not change
    difference = (model(images, changed) - model(images, targets)).abs().detach()
    assert patchify(difference, 4).amax(dim=(0, 2)).nonzero().flatten().tolist() == [*range(5), *range(6, 16)]


def test_a_bundle_of_it_gives_the_same_scores(tmp_path: Path):
    model = build_model(ARCH, (16, 24), 19, seed=0).eval()
    save_bundle(tmp_path, model, train_classes(CITYSCAPES))
    images = torch.randint(256, (2, 3, 16, 24), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path).predict(images), model(images))
