import math

import pytest
import torch
from torch.nn import functional as F

from vitseg.losses import balanced_weights, loss_count, segmentation_loss
from vitseg.recipe import LossRecipe

PALETTE = torch.tensor([[0, 0, 0], [255, 0, 0], [51, 102, 153]], dtype=torch.uint8)


def test_cross_entropy_of_three_pixels_by_hand():
    # Pixel 1: classes 0.5, 0.25, 0.25, truth 0; pixel 2: 0.1, 0.1, 0.8, truth 1; pixel 3 is ignored.
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    logits = probabilities.log().T.reshape(1, 3, 1, 3)
    total, valid = segmentation_loss(logits, torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), PALETTE, "classes")
    assert float(total) == pytest.approx(math.log(2) + math.log(10))
    assert int(valid) == 2


def test_absolute_error_of_three_pixels_by_hand():
    # Color of class 2: 0.2, 0.4, 0.6.
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


WEIGHTS = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
RECIPES = {
    "plain": (LossRecipe(), None),
    "weights": (LossRecipe(), WEIGHTS),
    "smoothing": (LossRecipe(label_smoothing=0.2), None),
    "dice": (LossRecipe(dice=0.7), None),
    "all": (LossRecipe(label_smoothing=0.1, dice=2.0), WEIGHTS),
}


def uneven(images: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float64 and labels whose parts have very different numbers of valid pixels and present classes."""
    torch.manual_seed(1)
    output = torch.randn(images, 3, 5, 7, dtype=torch.float64)
    labels = torch.randint(0, 3, (images, 5, 7), dtype=torch.uint8)
    labels[0] = 255
    labels[1, :, 1:] = 255
    labels[2:4] = labels[2:4].where(labels[2:4] == 1, 255)
    return output, labels


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("case", RECIPES)
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(case, parts):
    recipe, weights = RECIPES[case]
    output, labels = uneven()
    whole = output.clone().requires_grad_()
    total, count = segmentation_loss(whole, labels, PALETTE, "classes", recipe, weights)
    (total / count).backward()
    cut = output.clone().requires_grad_()
    count = sum(loss_count(some, weights) for some in labels.chunk(parts))
    for some, truth in zip(cut.chunk(parts), labels.chunk(parts), strict=True):
        (segmentation_loss(some, truth, PALETTE, "classes", recipe, weights)[0] / count).backward()
    torch.testing.assert_close(cut.grad, whole.grad, rtol=0, atol=1e-12)
    assert float(whole.grad.abs().sum()) > 0.1


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_parts_divided_once_are_torchs_own_mean(weights, smoothing):
    output, labels = uneven()
    recipe = LossRecipe(label_smoothing=smoothing)
    parts = [
        segmentation_loss(o[None], t[None], PALETTE, "classes", recipe, weights)
        for o, t in zip(output, labels, strict=True)
    ]
    mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
    wanted = F.cross_entropy(output, labels.long(), weights, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(mean, wanted)


def test_dice_of_two_images_by_hand():
    # Image 1: both pixels are class 0, with 0.8 and 0.4; image 2: one pixel of class 1 with 0.5, the other ignored.
    chances = torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]], [[[0.5, 0.9]], [[0.5, 0.1]]]], dtype=torch.float64)
    labels = torch.tensor([[[0, 0]], [[1, 255]]])
    plain, count = segmentation_loss(chances.log(), labels, PALETTE, "classes")
    total, _ = segmentation_loss(chances.log(), labels, PALETTE, "classes", LossRecipe(dice=3))
    first, second = 1 - 2 * 1.2 / (1.2 + 2), 1 - 2 * 0.5 / (0.5 + 1)
    assert float(total - plain) == pytest.approx(3 * (2 * first + 1 * second))
    assert int(count) == 3


def test_a_perfect_answer_has_no_dice_loss_and_an_image_without_labels_no_share_in_it():
    labels = torch.tensor([[[0, 2]], [[255, 255]]])
    output = (F.one_hot(labels.where(labels < 255, 0), 3).movedim(-1, 1) * 100.0).requires_grad_()
    total, _ = segmentation_loss(output, labels, PALETTE, "classes", LossRecipe(dice=1))
    total.backward()
    assert float(total.detach()) == pytest.approx(0, abs=1e-6)
    assert float(output.grad[1].abs().sum()) == 0


def test_one_logit_is_binary_cross_entropy():
    torch.manual_seed(0)
    logit = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 4, 4))
    labels[0, 0] = 255
    total, count = segmentation_loss(logit, labels, PALETTE, "classes")
    thing = (labels == 0)[:, None].double()  # train id 0 is the thing, 1 the background
    wanted = F.binary_cross_entropy_with_logits(logit, thing, reduction="none")[:, 0][labels != 255]
    torch.testing.assert_close(total, wanted.sum())
    assert int(count) == len(wanted)


@pytest.mark.parametrize(("rgb", "wanted"), [("absolute", 0.5 + 0.25), ("squared", 0.25 + 0.0625)])
def test_images_are_learned_pixel_by_pixel(rgb, wanted):
    labels = torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 1, 2)
    error = torch.tensor([0.5, 0.25], dtype=torch.float64)
    output = labels / torch.tensor(255, dtype=torch.float64) + error
    total, count = segmentation_loss(output, labels, PALETTE, "rgb", LossRecipe(rgb=rgb))
    assert float(total) == pytest.approx(wanted)
    assert int(count) == int(loss_count(labels)) == 2


def test_squared_error_of_train_ids_by_hand():
    output = torch.tensor([[0.2, 0.4, 0.6], [0.5, 0.5, 0.0], [0.9, 0.9, 0.9]]).T.reshape(1, 3, 1, 3)
    labels = torch.tensor([[[2, 1, 255]]], dtype=torch.uint8)
    total, _ = segmentation_loss(output, labels, PALETTE, "rgb", LossRecipe(rgb="squared"))
    assert float(total) == pytest.approx((0.25 + 0.25) / 3, abs=1e-6)


def test_balanced_weights_by_hand():
    # Shares 0.64, 0.04, 0.32, one over their roots 1.25, 5, 1.76777: mean 2.67259.
    weights = balanced_weights([64, 4, 0, 32])
    assert weights.tolist() == pytest.approx([1.25 / 2.67259, 5 / 2.67259, 0, 1.76777 / 2.67259], rel=1e-5)
    assert float(weights.sum()) == pytest.approx(3)
    assert balanced_weights([0, 0]).tolist() == [0, 0]
