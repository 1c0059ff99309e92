import dataclasses

import numpy as np
import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.config import load_recipe
from vitseg.errors import DataError, UsageError
from vitseg.labels import palette, train_classes
from vitseg.losses import segmentation_loss
from vitseg.model.segmenter import Segmenter, build_model, class_scores

ARCH = Architecture(
    patch_size=8, spatial_embedding=8, encoder_projection=56, blocks=2, heads=2, head_width=16, mlp_units=(96, 64),
    features_per_patch=32, decoder_projection=64, decoder_mlp_units=(128,),
)  # fmt: skip
RGB = dataclasses.replace(ARCH, target="rgb")
PALETTE = torch.from_numpy(palette(train_classes()))


def photos(count: int = 2, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, *size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_output_is_as_large_as_the_photograph():
    logits = build_model(ARCH, (32, 48), 19, seed=0)(photos())
    assert logits.shape == (2, 19, 32, 48)
    assert logits.is_contiguous(memory_format=torch.channels_last)
    colors = build_model(RGB, (32, 48), 19, seed=0)(photos()).detach()
    assert colors.shape == (2, 3, 32, 48)
    assert float(colors.min()) >= 0
    assert float(colors.max()) <= 1


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_model(ARCH, (32, 48), 19, seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = build_model(ARCH, (32, 48), 19, seed=1).state_dict()
    other = build_model(ARCH, (32, 48), 19, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.embedding.projection.weight"], other["encoder.embedding.projection.weight"])
    assert not torch.equal(first["decoder.projection.weight"], other["decoder.projection.weight"])


def test_a_new_network_prefers_no_class():
    logits = build_model(load_recipe("tiny").model, (32, 32), 19, seed=0)(photos(size=(32, 32))).detach()
    assert float(logits.abs().max()) < 1


@pytest.mark.parametrize("target", ["classes", "rgb"])
@pytest.mark.parametrize("position", ["concat", "add"])
def test_every_parameter_gets_a_gradient(target, position):
    arch = dataclasses.replace(ARCH, target=target, position=position, mlp_units=(48, 72))
    model = build_model(arch, (32, 48), 19, seed=0)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 19, (2, 32, 48), dtype=np.uint8))
    total, _ = segmentation_loss(model(photos()), labels, PALETTE, target)
    total.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []


def test_a_far_patch_changes_the_pixels_here():
    model = build_model(ARCH, (32, 48), 19, seed=0).eval()
    changed = photos()
    changed[:, :, -8:, -8:] = 255 - changed[:, :, -8:, -8:]
    here = (slice(None), slice(None), slice(0, 8), slice(0, 8))
    assert not torch.allclose(model(photos())[here], model(changed)[here], atol=1e-6)


def test_the_original_patch_reaches_its_own_pixels_without_the_encoder():
    model = build_model(ARCH, (32, 48), 19, seed=0).eval()
    torch.nn.init.zeros_(model.features.weight)
    changed = photos()
    changed[:, :, :8, :8] = 255 - changed[:, :, :8, :8]
    before, after = model(photos()), model(changed)
    assert not torch.allclose(before[:, :, :8, :8], after[:, :, :8, :8], atol=1e-4)
    assert torch.allclose(before[:, :, 8:], after[:, :, 8:], atol=1e-5)
    assert torch.allclose(before[:, :, :8, 8:], after[:, :, :8, 8:], atol=1e-5)


@pytest.mark.parametrize("arch", [ARCH, RGB], ids=["classes", "rgb"])
def test_overfits_four_images(arch):
    torch.manual_seed(0)
    images = photos(4, (16, 16))
    # Stripes of a few classes, different in each image; nothing of them can be seen in the noise.
    labels = (torch.arange(16) // 4 + torch.arange(4)[:, None]).remainder(4).to(torch.uint8)[:, None].repeat(1, 16, 1)
    model = build_model(arch, (16, 16), 19, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
    for step in range(100):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 10)
        total, valid = segmentation_loss(model(images), labels, PALETTE, arch.target)
        optimizer.zero_grad()
        (total / valid).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    scores = class_scores(model.eval()(images), PALETTE[:19], arch.target)
    assert (scores.argmax(1) == labels).float().mean() > 0.98


def test_scores_of_a_color_image_choose_the_nearest_color():
    colors = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    image = torch.tensor([[0.1, 0.0, 0.2], [0.6, 0.1, 0.1], [0.3, 0.3, 0.8]]).T.reshape(1, 3, 1, 3)
    scores = class_scores(image, colors, "rgb")
    assert scores.shape == (1, 3, 1, 3)
    assert scores.argmax(1).flatten().tolist() == [0, 1, 2]
    assert float(scores[0, 1, 0, 1]) == pytest.approx(-((0.4**2 + 0.1**2 + 0.1**2) ** 0.5))
    assert class_scores(image.bfloat16(), colors, "classes").dtype == torch.float32


def test_one_class_is_one_logit_whose_sigmoid_is_its_probability():
    logit = build_model(ARCH, (32, 48), 1, seed=0).eval()(photos()).detach()
    assert logit.shape == (2, 1, 32, 48)
    scores = class_scores(logit, PALETTE[:2], "classes")
    torch.testing.assert_close(scores.softmax(1)[:, :1], logit.sigmoid())
    assert torch.equal(scores.argmax(1) == 0, logit[:, 0] >= 0)


def test_images_need_no_classes():
    assert build_model(RGB, (32, 48), 0, seed=0)(photos()).shape == (2, 3, 32, 48)


def test_sizes_and_classes_that_make_no_sense_are_refused_at_once():
    with pytest.raises(UsageError, match="image size 250x128 is not a multiple of patch size 8"):
        Segmenter(ARCH, (128, 250), 19)
    for classes in (0, 256):
        with pytest.raises(UsageError, match=f"not {classes}"):
            Segmenter(ARCH, (32, 48), classes)
    with pytest.raises(UsageError, match="not 256"):
        Segmenter(RGB, (32, 48), 256)
    for shape in ((1, 3, 32, 41), (1, 3, 30, 40), (1, 4, 32, 40)):
        with pytest.raises(DataError, match=r"\(3, 8·n, 8·m\)"):
            Segmenter(ARCH, (32, 48), 19)(torch.zeros(shape))


@pytest.mark.parametrize("decoder", ["patch", "attention", "linear"])
def test_takes_images_of_other_sizes(decoder):
    arch = dataclasses.replace(ARCH, decoder=decoder, fine_patch=4, fine_width=32, fine_blocks=2)
    model = build_model(arch, (32, 48), 19, seed=0).eval()
    for size in ((8, 8), (40, 24), (64, 96)):
        assert model(photos(size=size)).shape == (2, 19, *size)


def test_compiles_to_one_graph():
    model = build_model(ARCH, (16, 16), 19, seed=0).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(photos(2, (16, 16))), model(photos(2, (16, 16))), atol=1e-5)
