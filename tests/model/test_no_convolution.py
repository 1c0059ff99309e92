"""No convolution by behavior: without what attention brings, a pixel is decided by its own patch alone.

A convolution reads a window that reaches beyond one patch through weights that don't depend on content. So the outputs of
all attention are set to zero, and a pixel's derivative by the photograph is followed: outside its own patch it vanishes, but
for the reach of the interpolation from a grid of logits to pixels, which learns nothing.
"""

import dataclasses
import itertools
import math
from typing import get_args, get_type_hints

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.config import load_recipe
from vitseg.errors import UsageError
from vitseg.model.convolutional_decoder import ConvolutionalArchitecture
from vitseg.model.cubic_interpolation import REACH
from vitseg.model.segmenter import Segmenter, build_model
from vitseg.recipes import PRESETS

SMALL = Architecture(
    patch_size=8, spatial_embedding=8, encoder_projection=24, blocks=2, heads=2, head_width=16, mlp_units=(48, 32),
    features_per_patch=16, decoder_projection=16, decoder_mlp_units=(32,), fine_width=32, fine_blocks=2, spiral_blocks=1,
)  # fmt: skip
DECODERS = [name for name in get_args(get_type_hints(Architecture)["decoder"]) if name != "overlap"]
CHOICES = {
    "decoder": DECODERS,
    "position": get_args(get_type_hints(Architecture)["position"]),
    "fine_patch": [0, 2, 4],
    "target": ["classes", "rgb"],
    "class_token": [False, True],
    "registers": [0, 3],
}
ALL = [
    dataclasses.replace(SMALL, **dict(zip(CHOICES, values, strict=True)))
    for values in itertools.product(*CHOICES.values())
    if (values[0] == "attention" or values[2] == 0) and (values[5] == 0 or values[3:5] == ("classes", True))
]
GRID = (3, 5)


def reached(arch: Architecture, pixel: tuple[int, int], *, attention: bool = False) -> torch.Tensor:
    """Return which pixels of the photograph, bool (H, W), the output at one pixel depends on."""
    size = (GRID[0] * arch.patch_size, GRID[1] * arch.patch_size)
    model = build_model(dataclasses.replace(arch, pixels="fixed"), size, 3, seed=0).double().eval()
    for module in model.modules():
        if type(module).__name__.endswith("Attention") and not attention:
            module.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    torch.manual_seed(0)
    for parameter in model.parameters():  # none at zero, behind which a path would be hidden
        torch.nn.init.normal_(parameter, std=0.3)
    photo = (255 * torch.rand(1, 3, *size, dtype=torch.float64)).requires_grad_()
    # The spiral decoder is fed with what it has made, as a language model is with its words: here with given targets.
    targets = [torch.rand(1, 3, *size, dtype=torch.float64)] if model.teacher_forcing else []
    model(photo, *targets)[0, :, pixel[0], pixel[1]].sum().backward()
    assert photo.grad is not None
    return photo.grad[0].abs().sum(0) > 0


def own_patches(arch: Architecture, pixel: tuple[int, int]) -> torch.Tensor:
    """Return the pixels, bool (H, W), of the patch of a pixel, and of those that its logit is interpolated from."""
    side, fine = arch.patch_size, arch.fine_patch or arch.patch_size
    cell = fine if arch.decoder == "attention" else side  # which has one vector of logits, where they are interpolated
    reach = {"attention": REACH if fine > 1 else 0.5, "linear": 1}.get(arch.decoder, 0.5)  # from the centers of cells
    own = torch.zeros(GRID[0] * side, GRID[1] * side, dtype=torch.bool)
    places = [(at + 0.5) / cell - 0.5 for at in pixel]
    for y, x in itertools.product(*(range(math.ceil(at - reach), math.floor(at + reach) + 1) for at in places)):
        if 0 <= y * cell < own.shape[0] and 0 <= x * cell < own.shape[1]:
            top, left = y * cell // side * side, x * cell // side * side
            own[top : top + side, left : left + side] = True
    return own


def pixels_to_try(arch: Architecture) -> list[tuple[int, int]]:
    side = arch.patch_size
    return [(side, 2 * side), (side + side // 2, 2 * side + side // 2), (0, 0), (2 * side - 1, 3 * side - 1)]


@pytest.mark.parametrize(
    "arch", ALL, ids=lambda arch: f"{arch.decoder}-{arch.position}-{arch.fine_patch}-{arch.target}"
)
def test_without_attention_a_pixel_depends_on_its_own_patch_alone(arch):
    for pixel in pixels_to_try(arch)[: 4 if arch.decoder in ("attention", "linear") else 1]:
        found = reached(arch, pixel)
        assert found.any()
        assert not (found & ~own_patches(arch, pixel)).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_without_attention_see_their_own_patch_alone(preset):
    arch = load_recipe(preset).model
    small = dataclasses.replace(  # as wide as it has to be: what reaches where does not depend on widths
        arch, blocks=1, heads=2, head_width=8, encoder_projection=16, mlp_units=(16, 16 + 8 * (arch.position == "concat")),
        decoder_mlp_units=(16,), fine_width=32,
    )  # fmt: skip
    for pixel in pixels_to_try(small)[:2]:
        assert not (reached(small, pixel) & ~own_patches(small, pixel)).any()


def test_with_attention_a_pixel_depends_on_the_whole_photograph():
    assert reached(dataclasses.replace(SMALL, decoder="attention", fine_patch=4), (8, 16), attention=True).all()


def test_the_old_decoder_is_found_out():
    old = dataclasses.asdict(SMALL) | {"decoder": "overlap", "fine_heads": 2, "fine_radius": 1, "narrow_width": 16}
    arch = ConvolutionalArchitecture(**old)
    found = reached(dataclasses.replace(arch, fine_patch=4), (12, 20))
    assert (found & ~own_patches(dataclasses.replace(SMALL, decoder="attention", fine_patch=4), (12, 20))).any()


def test_no_recipe_can_ask_for_the_old_decoder():
    with pytest.raises(UsageError, match="it was a convolution: choose attention"):
        load_recipe("tiny", overrides=["model.decoder=overlap"])


@pytest.mark.parametrize("preset", PRESETS)
def test_no_module_is_one_by_name(preset):
    with torch.device("meta"):
        model = Segmenter(load_recipe(preset).model, (256, 256), 19)
    kinds = {type(module).__name__ for module in model.modules()}
    assert [kind for kind in kinds if "conv" in kind.lower() or "fold" in kind.lower()] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_no_operator_is_one_by_name(preset):
    arch = load_recipe(preset).model
    size = (2 * arch.patch_size, 3 * arch.patch_size)
    model = build_model(arch, size, 19, seed=0).eval()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    program = torch.export.export(model, (images,))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("linear" in name for name in operators)
    names = ("conv", "im2col", "col2im", "fold.")  # aten.unfold is a view, not im2col
    assert [name for name in operators if any(word in name for word in names) and name != "aten.unfold.default"] == []
    assert torch.allclose(program.module()(images), model(images), atol=1e-5)
