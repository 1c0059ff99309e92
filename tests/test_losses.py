import math

import pytest
import torch

from vitseg.losses import segmentation_loss

PALETTE = torch.tensor([[0, 0, 0], [255, 0, 0], [51, 102, 153]], dtype=torch.uint8)


def test_cross_entropy_of_three_pixels_by_hand():
    # Pixel 1: classes 0.5, 0.25, 0.25, truth 0; pixel 2: 0.1, 0.1, 0.8, truth 1; pixel 3 is ignored.
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    logits = probabilities.log().T.reshape(1, 3, 1, 3)
    total, valid = segmentation_loss(logits, torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), PALETTE, "classes")
    assert float(total) == pytest.approx(math.log(2) + math.log(10))
    assert int(valid) == 2


def test_absolute_error_of_three_pixels_by_hand():
    # Colour of class 2: 0.2, 0.4, 0.6.
    output = torch.tensor([[0.2, 0.4, 0.6], [0.5, 0.5, 0.0], [0.9, 0.9, 0.9]]).T.reshape(1, 3, 1, 3)
    total, valid = segmentation_loss(output, torch.tensor([[[2, 1, 255]]], dtype=torch.uint8), PALETTE, "rgb")
    assert float(total) == pytest.approx((0.5 + 0.5 + 0.0) / 3, abs=1e-6)
    assert int(valid) == 2


@pytest.mark.parametrize(("target", "channels"), [("classes", 3), ("rgb", 3)])
def test_parts_of_a_batch_add_up(target, channels):
    torch.manual_seed(0)
    output = torch.rand(6, channels, 5, 7)
    labels = torch.randint(0, 4, (6, 5, 7)).apply_(lambda value: 255 if value == 3 else value)
    total, valid = segmentation_loss(output, labels, PALETTE, target)
    parts = [
        segmentation_loss(output[cut], labels[cut], PALETTE, target) for cut in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert float(sum(part for part, _ in parts)) == pytest.approx(float(total), rel=1e-5)
    assert sum(int(count) for _, count in parts) == int(valid) == int((labels != 255).sum())


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_an_image_without_labels_counts_nothing_and_teaches_nothing(target):
    output = torch.rand(2, 3, 4, 4, requires_grad=True)
    total, valid = segmentation_loss(output, torch.full((2, 4, 4), 255, dtype=torch.uint8), PALETTE, target)
    assert (float(total.detach()), int(valid)) == (0.0, 0)
    total.backward()
    assert torch.equal(output.grad, torch.zeros_like(output))


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_ignored_pixels_get_no_gradient_and_the_others_do(target):
    output = torch.rand(1, 3, 1, 2, requires_grad=True)
    segmentation_loss(output, torch.tensor([[[1, 255]]]), PALETTE, target)[0].backward()
    assert float(output.grad[..., 0].abs().sum()) > 0
    assert float(output.grad[..., 1].abs().sum()) == 0


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_computed_in_float32_and_the_same_in_any_memory_format(target):
    output = torch.rand(2, 3, 6, 8)
    labels = torch.randint(0, 3, (2, 6, 8), dtype=torch.uint8)
    total, _ = segmentation_loss(output, labels, PALETTE, target)
    last, _ = segmentation_loss(output.contiguous(memory_format=torch.channels_last), labels, PALETTE, target)
    assert float(last) == pytest.approx(float(total), rel=1e-6)
    assert segmentation_loss(output.bfloat16(), labels, PALETTE, target)[0].dtype == torch.float32
