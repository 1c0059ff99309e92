"""Augmentation: photo and label stay together, and what is drawn depends on seed, step and row alone."""

import numpy as np
import pytest
import torch

from vitseg.data.augment import _jitter, augment, class_weights
from vitseg.labels import palette, train_classes
from vitseg.recipe import AugmentRecipe

COLORS = torch.from_numpy(palette(train_classes()))
EVEN = (1,) * 19


def run(images, labels, *, seed=0, step=0, rows=None, pixels=EVEN, **recipe):
    rows = range(len(images)) if rows is None else rows
    return augment(images, labels, AugmentRecipe(**recipe), pixels, seed=seed, step=step, rows=rows)


def scenes(batch=8, height=48, width=64, seed=0):
    """Return labels of blocks of 8 pixels, (B, H, W), and photos in just the colors of their classes."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 19, (batch, height // 8, width // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    return COLORS[labels.long()].permute(0, 3, 1, 2).contiguous(), labels


def coordinates(batch=16, height=48, width=64):
    """Return photos whose red is the column and whose green is the row of each pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 200)]).to(torch.uint8).repeat(batch, 1, 1, 1)


def noise(batch=8, height=32, width=48):
    generator = torch.Generator().manual_seed(5)
    shape = (batch, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), scenes(batch, height, width)[1]


def test_a_recipe_that_asks_for_nothing_gets_the_same_tensors():
    images, labels = scenes(2)
    for recipe in ({}, {"rare": 0.5}):  # a crop of the whole image has no place to choose
        again = run(images, labels, **recipe)
        assert again[0] is images
        assert again[1] is labels


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.75, 1.5), (1.0, 4.0), (3.0, 3.0)])
@pytest.mark.parametrize("channel", [0, 1])
def test_photo_and_label_are_aligned_to_less_than_half_a_pixel(scale, channel):
    # Bilinear reading of a ramp gives the coordinate itself; rounded, it must be the pixel that nearest reading took.
    images = coordinates()
    photo, label = run(images, images[:, channel], scale=scale)
    known = label != 255
    assert known.float().mean() > 0.2
    assert torch.equal(photo[:, channel][known], label[known])
    assert (photo[:, 2][known] == 200).all()


def test_colors_of_the_palette_stay_with_their_classes():
    images, labels = scenes(32)
    photo, label = run(images, labels, scale=(0.75, 2.0))
    middle = label[:, 1:-1, 1:-1]
    sharp = middle != 255
    for y in (0, 1, 2):  # only where all neighbors are of one class nothing is blended
        for x in (0, 1, 2):
            sharp &= label[:, y : y + middle.shape[1], x : x + middle.shape[2]] == middle
    assert sharp.float().mean() > 0.4
    shown = photo[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1)[sharp]
    assert torch.equal(shown, COLORS[middle[sharp].long()])
    assert label.shape == labels.shape
    assert photo.dtype == label.dtype == torch.uint8


def test_a_scale_of_nearly_one_changes_nothing():
    images, labels = noise()
    photo, label = run(images, labels, scale=(1.0, 1.000001))
    assert torch.equal(label, labels)
    assert torch.equal(photo, images)


def test_labels_are_never_blended():
    images, labels = scenes(16)
    labels = torch.where(labels < 9, 3, 250).to(torch.uint8)
    assert run(images, labels, scale=(0.5, 3.0))[1].unique().tolist() == [3, 250, 255]


def test_a_scale_is_a_scale_and_crops_go_everywhere():
    images = coordinates(64)
    photo, label = run(images, images[:, 0], scale=(2.0, 2.0))
    assert ((photo[:, 0, :, -1].int() - photo[:, 0, :, 0].int()).unique() - 31).abs().max() <= 1  # of 64 columns 32
    lefts, tops = photo[:, 0, 0, 0], photo[:, 1, 0, 0]
    assert (int(lefts.min()), int(tops.min())) < (4, 4)
    assert int(lefts.max()) > 28
    assert int(tops.max()) > 20
    assert not (label == 255).any()
    scales = []
    for step in range(8):
        photo, _ = run(images, images[:, 0], scale=(1.0, 4.0), step=step)
        scales.append(64 / (photo[:, 0, 0, -1].double() - photo[:, 0, 0, 0].double() + 1))
    drawn = torch.cat(scales)
    assert 0.95 < drawn.min() < 1.1
    assert 3.5 < drawn.max() < 4.6
    assert 0.4 < (drawn < 2).double().mean() < 0.6  # the logarithm is uniform


def test_outside_of_the_photo_is_its_mean_and_ignored():
    images, labels = scenes(16)
    photo, label = run(images, labels, scale=(0.5, 0.5))
    outside = label == 255
    assert outside.flatten(1).sum(1).tolist() == [48 * 64 - 24 * 32] * 16
    for one, its, frame in zip(photo, images, outside, strict=True):
        assert len(one[:, frame].unique()) == 1
        assert abs(int(one[0][frame][0]) - float(its.float().mean())) <= 0.51
    assert len({tuple(one.nonzero()[0].tolist()) for one in ~outside}) > 8  # the photo lies here and there


@pytest.mark.parametrize("recipe", [{"scale": (0.6, 2.0), "color": 0.4, "rare": 0.5}, {"color": 0.4}])
def test_ranks_get_the_parts_of_what_one_process_gets(recipe):
    images, labels = noise()
    whole = run(images, labels, step=7, pixels=range(19), **recipe)
    for world in (2, 4, 8):
        for rank in range(world):
            part = run(
                images[rank::world], labels[rank::world], step=7, rows=range(rank, 8, world), pixels=range(19), **recipe
            )
            assert torch.equal(part[0], whole[0][rank::world])
            assert torch.equal(part[1], whole[1][rank::world])


def test_each_seed_step_and_row_draws_its_own():
    image, label = (one[:1].repeat(4, *[1] * (one.ndim - 1)) for one in noise())
    seen = [
        run(image, label, seed=seed, step=step, scale=(0.6, 2.0), color=0.4)[0]
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    flat = torch.cat(seen).flatten(1)
    assert len(flat.unique(dim=0)) == 12
    again = run(image, label, seed=0, step=1, scale=(0.6, 2.0), color=0.4)[0]
    assert torch.equal(again, seen[1])


def test_it_leaves_global_randomness_and_its_inputs_alone():
    images, labels = noise()
    copies, state = (images.clone(), labels.clone()), torch.get_rng_state()
    run(images, labels, scale=(0.6, 2.0), color=0.4, rare=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])


def test_crops_with_share_one_hold_a_rare_pixel():
    images, labels = scenes(64)
    labels = torch.zeros_like(labels)
    generator = torch.Generator().manual_seed(1)
    spots = [(int(torch.randint(0, 48, (), generator=generator)), int(torch.randint(0, 64, (), generator=generator)))
             for _ in range(64)]  # fmt: skip
    for one, (y, x) in zip(labels, [(0, 0), (47, 63), *spots[2:]], strict=True):
        one[y, x] = 18
    pixels = (64 * 48 * 64, *[0] * 17, 64)
    _, found = run(images, labels, scale=(1.0, 4.0), rare=1.0, pixels=pixels)
    assert (found == 18).flatten(1).any(1).all()
    _, without = run(images, labels, scale=(1.0, 4.0), rare=0.0, pixels=pixels)
    assert (without == 18).flatten(1).any(1).float().mean() < 0.75
    some = torch.cat([run(images, labels, scale=(4.0, 4.0), rare=0.5, pixels=pixels, step=s)[1] for s in range(8)])
    assert 0.45 < (some == 18).flatten(1).any(1).float().mean() < 0.65  # 1/2 + 1/2 · 1/16


def test_all_pixels_of_all_rare_classes_attract_crops():
    labels = torch.zeros(512, 32, 32, dtype=torch.uint8)
    labels[:, 2, 2:5], labels[:, 29, 29] = 1, 2
    pixels = (10**6, 3000, 1000)  # both under a hundredth: about as likely, however many pixels they have here
    _, found = run(torch.zeros(512, 3, 32, 32, dtype=torch.uint8), labels, scale=(8.0, 8.0), rare=1.0, pixels=pixels)
    holds = [(found == train_id).flatten(1).any(1) for train_id in (1, 2)]
    assert (holds[0] ^ holds[1]).all()
    expected = class_weights(pixels)
    assert holds[0].float().mean() == pytest.approx(expected[1] / (expected[1] + expected[2]), abs=0.07)


def test_images_without_any_label_are_cropped_too():
    images, labels = scenes(4)
    _, found = run(images, torch.full_like(labels, 255), scale=(2.0, 2.0), rare=1.0)
    assert found.unique().tolist() == [255]


def test_class_weights_are_those_of_daformer():
    weights = class_weights([98, 1, 1])
    shares = np.array([0.98, 0.01, 0.01])
    raw = np.exp((1 - shares) / 0.01 - 100)
    np.testing.assert_allclose(weights, raw / raw.sum(), rtol=1e-9)
    assert class_weights([0, 0]).tolist() == [0.5, 0.5]
    assert np.isfinite(class_weights([10**15, 0, 1])).all()


def test_target_images_are_resampled_like_the_photo_and_keep_their_colors():
    images, _ = scenes(8)
    photo, target = run(images, images.clone(), scale=(0.6, 2.0), rare=1.0)
    assert torch.equal(photo, target)
    jittered, again = run(images, images.clone(), scale=(0.6, 2.0), color=0.5)
    assert torch.equal(again, target)
    assert not torch.equal(jittered, again)
    assert torch.equal(run(images, images, color=0.5)[1], images)


def test_each_factor_changes_what_it_is_named_after():
    images = noise(2)[0]

    def jitter(*factors):
        return _jitter(images, torch.tensor([factors] * 2))

    torch.testing.assert_close(jitter(1, 1, 1), images.float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(jitter(0.5, 1, 1), images.float() / 2, rtol=0, atol=1e-3)
    flat, gray = jitter(1, 0, 1), jitter(1, 1, 0)
    assert flat.flatten(1).std(dim=1).max() < 1e-3
    assert gray.std(dim=1).max() < 1e-3
    torch.testing.assert_close(gray.mean((1, 2, 3)), flat.mean((1, 2, 3)), rtol=0, atol=1e-2)
    assert gray[:, 0].flatten(1).std(dim=1).min() > 20


def test_colors_change_by_what_was_asked_and_labels_do_not():
    images = torch.full((256, 3, 8, 8), 100, dtype=torch.uint8)
    labels = torch.zeros(256, 8, 8, dtype=torch.uint8)
    photo, same = run(images, labels, color=0.3)
    assert same is labels
    values = photo[:, 0, 0, 0]  # a gray picture of one tone has no contrast and no saturation
    assert 70 <= int(values.min()) < 76
    assert 124 < int(values.max()) <= 130
    assert (photo == values[:, None, None, None]).all()
    # Contrast: light and dark move apart or together, about their mean. Saturation: so do the channels.
    halves = torch.tensor([60, 140], dtype=torch.uint8).repeat(256, 3, 8, 4)
    photo = run(halves, labels, color=0.3)[0].float()
    spread = (photo[..., 1] - photo[..., 0]) / (photo[..., 1] + photo[..., 0]) / 0.4
    assert 0.69 < spread.min() < 0.76
    assert 1.24 < spread.max() < 1.31
    colored = torch.tensor([80, 120, 100], dtype=torch.uint8)[None, :, None, None].repeat(256, 1, 8, 8)
    photo = run(colored, labels, color=0.3)[0].float()
    ratio = (photo[:, 1] - photo[:, 0]) / photo.mean(1)
    assert ratio.max() / ratio.min() > 2.2  # contrast alone gives up to 1.3 / 0.7 = 1.86, with saturation the square
    assert (photo[:, 1] > photo[:, 2]).all()
    assert (photo[:, 2] > photo[:, 0]).all()
