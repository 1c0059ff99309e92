"""With published weights, our encoder computes what the published model computes."""

import re

import pytest
import torch
from einops import rearrange

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import patchify
from vitseg.model.published_weights import PixelStats, encoder_from_published, read_published, resize_kernel

transformers = pytest.importorskip("transformers")

IMAGENET = PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of DeiT, DINO and MAE
OURS = PixelStats(std=(0.25, 0.25, 0.25))
ARCH = Architecture(
    patch_size=4, position="add", class_token=True, norm_epsilon=1e-12, encoder_projection=24, blocks=2, heads=3,
    head_width=8, mlp_units=(40, 24), features_per_patch=5,
)  # fmt: skip
# Names on the hub, for those that transformers 5 has in memory.
PUBLISHED = [
    (r"layers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
    (r"layers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
    (r"layers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
    (r"layers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
    (r"layers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
    (r"layers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
    (r"layers\.(\d+)\.layernorm", r"encoder.layer.\1.layernorm"),
]


@pytest.fixture
def theirs():
    """A ViT of transformers with random weights, none of them 0 or 1, for images of 16×16."""
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=16, patch_size=4
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def published(state, prefix=""):
    for new, old in PUBLISHED:
        state = {re.sub(new, old, name): tensor for name, tensor in state.items()}
    return {prefix + name: tensor for name, tensor in state.items()}


def as_timm(state):
    """Name the tensors as timm 1.0.31's vision_transformer.py does: one Linear for queries, keys and values."""
    named = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "head.weight": torch.zeros(10, 24),
        "head.bias": torch.zeros(10),
    }
    for kind in ("weight", "bias"):
        named[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        named[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for index in range(2):
            old, new = f"layers.{index}.", f"blocks.{index}."
            rows = [state[f"{old}attention.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{new}attn.qkv.{kind}"] = torch.cat(rows)
            for theirs, timm in [
                ("layernorm_before", "norm1"), ("attention.o_proj", "attn.proj"), ("layernorm_after", "norm2"),
                ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
            ]:  # fmt: skip
                named[f"{new}{timm}.{kind}"] = state[f"{old}{theirs}.{kind}"]
    return named


def converted(state, arch=ARCH, grid=(4, 4), pixels=OURS, heads=3):
    """Return our encoder's weights, as with files beside the published ones that state pixels and heads."""
    config = {"num_attention_heads": heads} if heads else {}
    published = read_published(state, config, {"image_mean": pixels.mean, "image_std": pixels.std})
    return encoder_from_published(published, arch, grid, OURS)


def our_tokens(weights, photos, arch=ARCH):
    """Return our encoder's tokens for photos (B, 3, H, W) in 0–1, normalized as `Segmenter` does."""
    grid = photos.shape[2] // 4, photos.shape[3] // 4
    encoder = VisionTransformer(arch, grid).eval()
    encoder.load_state_dict(weights)
    with torch.no_grad():
        return encoder(patchify((photos - 0.5) / 0.25, 4), grid)


def reference_tokens(model, photos, pixels=None, **options):
    """Return the tokens of transformers' own model for photos (B, 3, H, W) in 0–1."""
    pixels = pixels or PixelStats()
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    with torch.no_grad():
        return model((photos - mean) / std, **options).last_hidden_state


@pytest.mark.parametrize("pixels", [PixelStats(), IMAGENET], ids=["vit", "imagenet"])
@pytest.mark.parametrize(
    "naming",
    [lambda state: state, published, lambda state: published(state, "vit."), as_timm],
    ids=["memory", "hub", "hub-classifier", "timm"],
)
def test_the_encoder_computes_what_transformers_computes(theirs, naming, pixels):
    photos = torch.rand(2, 3, 16, 16)
    weights = converted(naming(theirs.state_dict()), ARCH, (4, 4), pixels)
    assert torch.allclose(our_tokens(weights, photos), reference_tokens(theirs, photos, pixels), atol=1e-5)


def test_it_computes_the_same_for_images_of_another_size(theirs):
    for size in ((24, 40), (8, 12), (32, 8)):  # larger, smaller, and as many patches in another form
        photos = torch.rand(2, 3, *size)
        weights = converted(theirs.state_dict(), ARCH, (size[0] // 4, size[1] // 4), PixelStats(), 3)
        assert torch.allclose(
            our_tokens(weights, photos), reference_tokens(theirs, photos, interpolate_pos_encoding=True), atol=1e-5
        )


def test_classifiers_are_left_out_and_half_precision_is_widened(theirs):
    state = {f"vit.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state |= {"classifier.weight": torch.zeros(5, 24), "classifier.bias": torch.zeros(5)}
    halves = {name: tensor.half() for name, tensor in state.items()}
    weights = converted(halves, ARCH, (4, 4), PixelStats(), None)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["norm.weight"], theirs.layernorm.weight.half().float())


def test_a_class_token_without_a_position_of_its_own(theirs):
    state = as_timm(theirs.state_dict())
    without = {**state, "pos_embed": state["pos_embed"][:, 1:]}  # timm's no_embed_class
    weights = converted(without, ARCH, (4, 4), PixelStats(), None)
    assert torch.equal(weights["class_token"], state["cls_token"].flatten())
    assert torch.equal(weights["embedding.position"], state["pos_embed"][0, 1:])


def test_queries_keys_and_values_without_bias(theirs):
    state = {name: tensor for name, tensor in as_timm(theirs.state_dict()).items() if not name.endswith("qkv.bias")}
    weights = converted(state, ARCH, (4, 4), PixelStats(), None)
    assert not weights["blocks.1.attention.qkv.bias"].any()
    assert weights["blocks.1.attention.qkv.bias"].shape == (72,)


def test_a_patch_is_flattened_as_ours_are(theirs):
    kernel = theirs.state_dict()["embeddings.patch_embeddings.projection.weight"]
    weights = converted(theirs.state_dict(), ARCH, (4, 4), OURS, None)
    assert torch.equal(weights["embedding.projection.weight"], rearrange(kernel, "d c p1 p2 -> d (p1 p2 c)"))


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"pre_norm": True}, "--set model.pre_norm=false"),
        ({"encoder_projection": 32}, "--set model.encoder_projection=24"),
        ({"blocks": 3}, "--set model.blocks=2"),
        ({"pixels": "image"}, "--set model.pixels=fixed"),
        ({"heads": 6, "head_width": 4}, "--set model.heads=3 --set model.head_width=8"),
        ({"mlp_units": (48, 24)}, "--set model.mlp_units=[40,24]"),
        ({"position": "concat", "class_token": False}, "--set model.position=add --set model.class_token=true"),
        ({"normalization": "none"}, "--set model.normalization=layer"),
        ({"layer_scale": 0.1}, "--set model.layer_scale=0.0"),
        ({"position": "rotary", "registers": 4}, "--set model.position=add --set model.registers=0"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_with_the_options_that_do(theirs, values, options):
    arch = Architecture(**{**{name: getattr(ARCH, name) for name in ARCH.__dataclass_fields__}, **values})
    with pytest.raises(UsageError) as caught:
        converted(theirs.state_dict(), arch, (4, 4), PixelStats(), 3)
    assert f"recipe: {options} does" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("layernorm.weight"),
        lambda state: state.pop("layers.1.mlp.fc2.bias"),
        lambda state: state.pop("layers.1.attention.k_proj.weight"),
        lambda state: state.pop("embeddings.position_embeddings"),
        lambda state: state.update({"layers.1.attention.q_proj.weight": torch.zeros(24, 23)}),
        lambda state: state.update({"layernorm.bias": torch.full((24,), torch.nan)}),
        lambda state: state.update({"embeddings.patch_embeddings.projection.weight": torch.zeros(24, 3, 4, 5)}),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(theirs, damage):
    state = dict(theirs.state_dict())
    damage(state)
    with pytest.raises(DataError) as caught:
        converted(state, ARCH, (4, 4), PixelStats(), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embeddings.patch_embeddings.projection.bias", (1,)),
        ("embeddings.cls_token", (1, 1, 1)),
        ("layers.1.attention.q_proj.bias", (1,)),
        ("layers.0.attention.k_proj.weight", (24,)),
        ("layers.0.mlp.fc1.weight", ()),
        ("layers.0.attention.o_proj.weight", ()),
        ("layernorm.bias", (1,)),
        ("layers.1.mlp.fc1.bias", (1,)),
    ],
)
def test_a_tensor_of_a_wrong_shape_is_refused_instead_of_broadcast(theirs, name, shape):
    state = {**theirs.state_dict(), name: torch.ones(shape)}
    with pytest.raises(DataError) as caught:
        converted(state, ARCH, (4, 4), PixelStats(), None)
    assert "\n" not in str(caught.value)


def test_biases_whose_lengths_only_add_up_are_refused(theirs):
    part = "layers.1.attention."
    state = {**theirs.state_dict(), f"{part}q_proj.bias": torch.ones(48), f"{part}k_proj.bias": torch.ones(0)}
    with pytest.raises(DataError, match=r"attention.query.bias .* has shape \(48,\), not \(24,\)"):
        converted(state, ARCH, (4, 4), PixelStats(), None)


@pytest.mark.parametrize(
    "name", ["fc_norm.weight", "blocks.0.attn.q_norm.weight", "blocks.0.mlp.norm.weight", "norm.scale"]
)
def test_a_tensor_that_is_unknown_is_refused_by_its_name(theirs, name):
    state = {**as_timm(theirs.state_dict()), name: torch.ones(24)}
    with pytest.raises(UsageError, match=f"no Vision Transformer of a known family .* {re.escape(name)} is none"):
        converted(state, ARCH, (4, 4), PixelStats(), None)


def test_a_tensor_that_has_no_place_here_is_refused_by_its_name(theirs):
    state = {**as_timm(theirs.state_dict()), "blocks.1.attn.q_bias": torch.ones(24)}  # beside a bias of all three
    with pytest.raises(DataError, match=r"blocks.1.attention.query.bias .* has no place"):
        converted(state)


def test_pixels_must_be_numbers():
    with pytest.raises(DataError, match="std above 0"):
        PixelStats(std=(0.5, 0.0, 0.5))


@pytest.mark.parametrize("size", [2, 3])
def test_a_smaller_patch_has_the_product_of_the_enlarged_one(size):
    torch.manual_seed(0)
    kernel, patches = torch.randn(7, 3, 4, 4, dtype=torch.float64), torch.rand(9, 3, size, size, dtype=torch.float64)
    large = torch.nn.functional.interpolate(patches, size=(4, 4), mode="bicubic", antialias=True)
    before, after = (
        torch.einsum("ncpq,dcpq->nd", *pair) for pair in ((large, kernel), (patches, resize_kernel(kernel, size)))
    )
    assert torch.allclose(before, after, atol=1e-10)


@pytest.mark.parametrize("size", [4, 5, 8, 13])
def test_a_patch_and_its_kernel_may_be_enlarged_together(size):
    torch.manual_seed(0)
    kernel, patches = torch.randn(7, 3, 4, 4, dtype=torch.float64), torch.rand(9, 3, 4, 4, dtype=torch.float64)
    large = torch.nn.functional.interpolate(patches, size=(size, size), mode="bicubic", antialias=True)
    before, after = (
        torch.einsum("ncpq,dcpq->nd", *pair) for pair in ((patches, kernel), (large, resize_kernel(kernel, size)))
    )
    assert torch.allclose(before, after, atol=1e-10)


@pytest.mark.parametrize("size", [8, 10, 16, 20, 28])
def test_an_image_of_another_size_has_nearly_the_same_embedding_by_a_resized_kernel(size):
    torch.manual_seed(0)
    kernel = torch.randn(5, 3, 14, 14, dtype=torch.float64)
    kernel = torch.nn.functional.avg_pool2d(kernel, 5, 1, 2)  # smooth, as learned ones are
    rows, columns = (torch.linspace(0, 3, 14 * 8, dtype=torch.float64) for _ in range(2))
    image = torch.stack(
        [torch.sin(rows)[:, None] * columns, rows[:, None] + columns, torch.cos(rows[:, None] - columns)]
    )[None]
    other = torch.nn.functional.interpolate(image, size=(8 * size, 8 * size), mode="bicubic", antialias=True)
    before, after = (
        torch.einsum(
            "bnx,dx->bnd", patchify(pixels, side), rearrange(resize_kernel(kernel, side), "d c p q -> d (p q c)")
        )
        for pixels, side in ((image, 14), (other, size))
    )
    inner = torch.arange(64).view(8, 8)[1:-1, 1:-1].flatten()  # the image ends where the border's patches do
    assert torch.allclose(before[:, inner], after[:, inner], atol=0.03 * before.std().item())
