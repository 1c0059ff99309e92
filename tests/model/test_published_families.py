"""Every family of published encoders: our features are those of transformers, and what files beside the weights say is heard."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import patchify
from vitseg.model.published_families import Family, Stated
from vitseg.model.published_weights import PixelStats, encoder_from_published, read_published

transformers = pytest.importorskip("transformers")

OURS = PixelStats(std=(0.25, 0.25, 0.25))
SIZES = ((24, 24), (16, 40), (48, 12))  # of images, in pixels: those of the positions, and two that are not square
NUMBERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 24, "patch_size": 4}
MODELS = {
    "vit": ("ViT", {"intermediate_size": 40}),
    "deit": ("DeiT", {"intermediate_size": 40}),
    "mae": ("ViTMAE", {"intermediate_size": 40, "mask_ratio": 0.0}),
    "dinov2": ("Dinov2", {"mlp_ratio": 2}),
    "dinov2-giant": ("Dinov2", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov2-registers": ("Dinov2WithRegisters", {"mlp_ratio": 2, "num_register_tokens": 3}),
    "dinov3": ("DINOv3ViT", {"intermediate_size": 40, "num_register_tokens": 4}),
    "dinov3-7b": (
        "DINOv3ViT", {"intermediate_size": 40, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "dinov3-without-biases": (
        "DINOv3ViT", {"intermediate_size": 40, "num_register_tokens": 4, "proj_bias": False, "mlp_bias": False},
    ),
    "clip": ("CLIPVision", {"intermediate_size": 40}),
    "siglip": ("SiglipVision", {"intermediate_size": 40}),
}  # fmt: skip


def reference(name):
    """Return a model of transformers with random weights, none of them 0 or 1."""
    kind, numbers = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**NUMBERS, **numbers)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model


def reference_tokens(model, pixels):
    options = {}
    if hasattr(model, "post_layernorm") or model.config.model_type in ("vit", "deit", "vit_mae"):
        options["interpolate_pos_encoding"] = True
    if model.config.model_type == "vit_mae":  # by which it would shuffle patches
        options["noise"] = torch.arange(pixels.shape[2] * pixels.shape[3] / 16).expand(len(pixels), -1)
    tokens = model(pixels, **options).last_hidden_state
    # CLIP normalizes the class token alone.
    return model.post_layernorm(tokens) if model.config.model_type == "clip_vision_model" else tokens


def our_tokens(published, photos, **other):
    """Return our encoder's tokens for photos (B, 3, H, W) in 0–1, normalized as `Segmenter` does."""
    arch = Architecture(**published.architecture | other)
    grid = photos.shape[2] // arch.patch_size, photos.shape[3] // arch.patch_size
    encoder = VisionTransformer(arch, grid).eval()
    encoder.load_state_dict(encoder_from_published(published, arch, grid, OURS))
    return encoder(patchify((photos - 0.5) / 0.25, arch.patch_size), grid)


def largest_difference(published, model):
    mean, std = (torch.tensor(values)[:, None, None] for values in (published.pixels.mean, published.pixels.std))
    worst = 0.0
    with torch.no_grad():
        for size in SIZES:
            photos = torch.rand(2, 3, *size)
            expected = reference_tokens(model, (photos - mean) / std)
            worst = max(worst, (our_tokens(published, photos) - expected).abs().max().item())
    return worst


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_transformers(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)  # with the names of files on the hub
    file, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())
    for state in (file, model.state_dict()):
        published = read_published(state, config, {})
        assert published.assumed == {"pixels"}
        assert published.architecture["norm_epsilon"] == model.config.layer_norm_eps
        assert largest_difference(published, model) < 1e-5
    bare = read_published(file, {"num_attention_heads": 4}, {})  # heads alone don't show in shapes
    assert "norm_epsilon" in bare.assumed
    same = {key: value for key, value in bare.architecture.items() if key != "norm_epsilon"}
    assert same == {key: value for key, value in published.architecture.items() if key != "norm_epsilon"}


# timm 1.0.31's names, for those that transformers 5 has in memory.
TIMM = [
    (r"embeddings\.(cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embedding(s|\.weight)", "pos_embed"),
    (r"embeddings\.patch_embedding(s\.projection|s)?\.", "patch_embed.proj."),
    (r"pre_layrnorm", "norm_pre"),
    (r"^(post_)?layernorm", "norm"),
    (r"(encoder\.|model\.)?layers?\.(\d)", r"blocks.\2"),
    (r"layernorm_before|layer_norm1", "norm1"),
    (r"layernorm_after|layer_norm2", "norm2"),
    (r"(attention|self_attn)\.(o|out)_proj", "attn.proj"),
    (r"layer_scale(.)\.lambda1", r"ls\1.gamma"),
    (r"mlp\.gate_proj", "mlp.fc1_g"),
    (r"mlp\.up_proj", "mlp.fc1_x"),
    (r"mlp\.down_proj", "mlp.fc2"),
    (r"^head\.", "attn_pool."),
]


def as_timm(state):
    """Name tensors as timm does: one matrix for queries, keys and values, and a class token of shape (1, 1, D)."""
    named = {}
    for name, tensor in state.items():
        for theirs, timm in TIMM:
            name = re.sub(theirs, timm, name)
        if not re.search(r"[qkv]_proj|mask_token", name):
            named[name] = tensor.reshape(1, -1, 32) if name in ("cls_token", "pos_embed") else tensor
    for query in (name for name in state if name.endswith("q_proj.weight")):
        block = f"blocks.{re.search(r'[0-9]+', query)[0]}.attn"
        parts = [query.replace("q_proj", f"{part}_proj") for part in "qkv"]
        named[f"{block}.qkv.weight"] = torch.cat([state[part] for part in parts])
        biases = [state.get(part.replace("weight", "bias")) for part in parts]
        if all(bias is not None for bias in biases):
            named[f"{block}.qkv.bias"] = torch.cat(biases)
        else:  # keys have none: timm has two tensors
            named |= {f"{block}.q_bias": biases[0], f"{block}.v_bias": biases[2]}
    return named


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2-registers", "dinov3", "dinov3-7b", "clip", "siglip"])
def test_timm_has_other_names_for_the_same(name):
    model = reference(name)
    theirs = read_published(model.state_dict(), model.config.to_dict(), {})
    architecture = {"clip": "vit_base_patch16_clip_quickgelu_224.openai"}.get(name)
    config = {"architecture": architecture, "model_args": {"num_heads": 4}}
    timm = read_published(as_timm(model.state_dict()), config, {})
    assert theirs.tensors.keys() == timm.tensors.keys()
    for key, tensor in theirs.tensors.items():
        assert torch.equal(tensor.flatten(), timm.tensors[key].flatten()), key
    epsilon = {"norm_epsilon": 1e-6} if name == "vit" else {}  # timm's own
    assert timm.architecture == theirs.architecture | epsilon
    assert (timm.antialias, timm.pixels) == (theirs.antialias, theirs.pixels)


def read(name="vit", config=None, preprocessor=None, timm=False, **changed):
    """Read a model's tensors, with some changed (None: removed) and other files beside them."""
    state = reference(name).state_dict()
    state = {**(as_timm(state) if timm else state), **changed}
    return read_published(
        {key: value for key, value in state.items() if value is not None}, config or {}, preprocessor or {}
    )


def test_the_tower_of_a_model_of_photographs_and_texts_is_found():
    tower = {f"vision_model.{name}": tensor for name, tensor in reference("siglip").state_dict().items()}
    state = {**tower, "text_model.embeddings.token_embedding.weight": torch.ones(5, 32), "logit_scale": torch.ones(1)}
    config = {"model_type": "siglip", "vision_config": {"num_attention_heads": 4}, "text_config": {"hidden_size": 9}}
    published = read_published(
        state, config, {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "rescale_factor": 1 / 255}
    )
    assert (published.family, published.architecture["activation"]) == ("SigLIP ViT-32/4", "gelu_tanh")
    assert published.pixels == PixelStats((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert not published.assumed


def test_a_config_of_timm_is_understood():
    pixels = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [3, 24, 24],
    }
    published = read(config={"architecture": "vit_small_patch4_24.augreg", "pretrained_cfg": pixels}, timm=True)
    assert published.family == "vit_small_patch4_24.augreg"
    assert published.pixels == PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert published.image_size == (24, 24)
    assert published.architecture["norm_epsilon"] == 1e-6
    assert published.assumed == {"heads", "head_width"}


def test_a_license_with_conditions_is_known():
    assert "dinov3-license" in read("dinov3").license
    assert not read("dinov2").license


def test_what_nothing_states_is_assumed_as_most_models_have_it():
    published = read()
    assert published.assumed == {"heads", "head_width", "norm_epsilon", "activation", "pixels"}
    assert (published.architecture["heads"], published.architecture["head_width"]) == (1, 32)
    assert published.pixels == PixelStats()
    assert read("dinov2").pixels == PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("family", "width", "heads"),
    [
        ("ViT", 384, 6),
        ("ViT", 1280, 16),
        ("DINOv3", 1280, 20),
        ("SigLIP", 1152, 16),
        ("SigLIP", 1536, 16),
        ("DINOv2", 1536, 24),
    ],
)
def test_heads_are_64_wide_but_in_models_that_are_known_for_others(family, width, heads):
    assert Stated(Family(family, 1e-6), False, {}, {}).heads(width) == (heads, True)


@pytest.mark.parametrize(
    ("name", "config", "hint"),
    [
        ("vit", {"model_type": "siglip2"}, "siglip2"),
        ("vit", {"hidden_act": "relu"}, "relu"),
        ("vit", {"hidden_act": "silu"}, "silu"),
        ("dinov3", {"rope_theta": 10000.0}, "rope_theta = 10000.0"),
        ("dinov3-7b", {"model_type": "dinov3_vit", "num_attention_heads": 4}, "'gelu' with a gate"),
    ],
)
def test_what_this_encoder_does_not_compute_is_refused(name, config, hint):
    with pytest.raises(UsageError, match=hint) as caught:
        read(name, config)
    assert "\n" not in str(caught.value)


def test_models_of_timm_with_rotations_that_are_not_ours_are_refused():
    with pytest.raises(UsageError, match="vit_pe_spatial_small_patch16_512"):
        read(config={"architecture": "vit_pe_spatial_small_patch16_512"}, timm=True)
    with pytest.raises(DataError, match="no learned positions"):
        read(timm=True, pos_embed=None)


def test_pixels_that_are_not_scaled_to_1_are_refused():
    with pytest.raises(UsageError, match="1/255"):
        read(preprocessor={"do_rescale": False})


def test_the_naflex_variant_of_siglip_is_refused_in_words():
    with pytest.raises(UsageError, match="NaFlex"):
        read("siglip", **{"embeddings.patch_embedding.weight": torch.zeros(32, 48)})


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 3), ("hidden_size", 64), ("patch_size", 16), ("intermediate_size", 160), ("num_attention_heads", 5),
     ("layer_norm_eps", "small")],
)  # fmt: skip
def test_a_config_of_another_model_is_told(key, value):
    with pytest.raises(DataError, match=str(value)):
        read(config={key: value})


def test_positions_of_images_that_are_not_square_are_known_from_the_config():
    numbers = {**NUMBERS, **MODELS["vit"][1], "image_size": [16, 36]}
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**numbers)).eval()  # 4×9 patches: a square number of them
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    photos = torch.rand(2, 3, 16, 36)
    published = read_published(model.state_dict(), model.config.to_dict(), {})
    with torch.no_grad():
        assert torch.allclose(our_tokens(published, photos), model(2 * photos - 1).last_hidden_state, atol=1e-5)
    own = encoder_from_published(published, Architecture(**published.architecture), (4, 9), OURS)
    fewer = encoder_from_published(published, Architecture(**published.architecture), (4, 3), OURS)[
        "embedding.position"
    ]
    assert torch.equal(fewer.view(4, 3, 32), own["embedding.position"].view(4, 9, 32)[:, 1::3])  # every third column


def test_the_kernel_fits_patches_of_another_size():
    published = read("dinov2", {"num_attention_heads": 4})
    with torch.no_grad():
        tokens = our_tokens(published, torch.rand(1, 3, 24, 24))
        larger = our_tokens(published, torch.rand(1, 3, 48, 48), patch_size=8)
    assert larger.shape == tokens.shape
