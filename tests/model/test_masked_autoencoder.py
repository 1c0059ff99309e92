"""The masked autoencoder: hidden patches have no influence, and which they are is reproducible."""

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.config import recipe_from
from vitseg.errors import UsageError
from vitseg.model.masked_autoencoder import MaskedAutoencoder, build_masked, normalize_patches, visible_patches
from vitseg.model.patches import patchify
from vitseg.model.summary import count_convolutions
from vitseg.recipe import MaskedRecipe

SIZE = (16, 24)  # 4×6 patches of 4 pixels
KEYS = [f"photo-{index}" for index in range(4)]


def arch(**values) -> Architecture:
    numbers = {"patch_size": 4, "spatial_embedding": 4, "encoder_projection": 12, "blocks": 2, "heads": 2}
    return Architecture(**{**numbers, "head_width": 8, "mlp_units": (24, 16), "features_per_patch": 5, **values})


def make(masked=None, **values) -> MaskedAutoencoder:
    return build_masked(arch(**values), SIZE, masked or MaskedRecipe(decoder_width=32), seed=1).eval()


def visible(step=0, seed=0, keys=KEYS, ratio=0.75):
    return visible_patches(keys, 24, ratio, seed=seed, step=step)


ROTARY = {"position": "rotary", "class_token": True, "registers": 2}


@pytest.fixture
def photos():
    torch.manual_seed(0)
    return torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8)


@pytest.mark.parametrize("values", [{}, {"position": "add"}, {"class_token": True}, {"normalization": "none"}, ROTARY])
def test_every_patch_is_predicted(photos, values):
    model = make(**values)
    assert model(photos, visible()).shape == (4, 24, 48)
    assert count_convolutions(model) == 0


@pytest.mark.parametrize("values", [{}, {"class_token": True}, ROTARY])
def test_hidden_patches_do_not_change_the_prediction(photos, values):
    model, shown = make(**values), visible()
    hidden = model.hidden(shown)
    mask = hidden.unflatten(1, (4, 6)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    other = torch.where(mask[:, None], 255 - photos, photos)
    assert not torch.equal(other, photos)
    assert torch.equal(model(other, shown), model(photos, shown))
    seen = torch.where(mask[:, None], photos, 255 - photos)
    assert not torch.allclose(model(seen, shown), model(photos, shown), atol=1e-3)


@pytest.mark.parametrize("class_token", [False, True])
def test_each_token_goes_to_its_own_place_in_the_decoder(photos, class_token):
    model, shown = make(class_token=class_token), visible()
    model.decoder = torch.nn.ModuleList()  # without attention, what is drawn of a patch is its own token's
    told = model(photos, shown)
    patches, grid = model.cut(photos)
    tokens = model.encoder.embedding(patches, grid)
    for row in range(4):
        some = tokens[row, shown[row]][None]
        if class_token:
            some = torch.cat((model.encoder.class_token[None, None], some), dim=1)
        for block in model.encoder.blocks:
            some = block(some)
        seen = model.embedding(model.encoder.norm(some))[0, -6:]
        for patch in range(24):
            place = shown[row].tolist().index(patch) if patch in shown[row] else None
            token = model.mask_token if place is None else seen[place]
            drawn = model.prediction(model.norm(token + model.decoder_position[patch]))
            assert torch.allclose(told[row, patch], drawn, atol=1e-5)


def test_the_loss_is_the_mean_over_hidden_patches_of_their_normalized_values(photos):
    model, shown = make(), visible()
    drawn = model(photos, shown)
    target = patchify(photos / 255.0, 4)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6 / 16).sqrt()
    expected = 0.0
    for row in range(4):
        for patch in set(range(24)) - set(shown[row].tolist()):
            expected += (drawn[row, patch] - target[row, patch]).square().mean().item()
    assert model.loss(drawn, photos, shown).item() == pytest.approx(expected, rel=1e-3)
    perfect = normalize_patches(model.cut(photos)[0])[0]
    assert model.loss(perfect, photos, shown).item() == 0
    worse_where_visible = perfect + (~model.hidden(shown))[..., None]
    assert model.loss(worse_where_visible, photos, shown).item() == 0


def test_a_patch_of_one_color_has_no_contrast(photos):
    flat = torch.full_like(photos, 128)
    assert torch.isfinite(make().loss(make()(flat, visible()), flat, visible()))


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 6), (0.5, 12), (0.99, 1), (0.01, 23)])
def test_as_many_stay_visible_as_the_ratio_says(ratio, count):
    shown = visible(ratio=ratio)
    assert shown.shape == (4, count)
    assert (shown.sort(1).values == shown).all()
    assert all(len(set(row)) == count for row in shown.tolist())
    assert make().hidden(shown).sum(1).tolist() == [24 - count] * 4


def test_what_is_hidden_depends_on_seed_step_and_photograph_alone():
    assert torch.equal(visible(step=3), visible(step=3))
    assert torch.equal(visible(step=3, keys=KEYS[::-1]), visible(step=3).flip(0))  # whoever reads the photograph
    assert torch.equal(visible(step=3, keys=KEYS[1:2])[0], visible(step=3)[1])
    assert len({tuple(row) for row in visible().tolist()}) == 4
    assert not torch.equal(visible(step=3), visible(step=4))
    assert not torch.equal(visible(seed=1), visible(seed=2))
    shares = torch.cat([visible(step=step) for step in range(200)]).flatten().bincount(minlength=24) / 800
    assert (shares - 0.25).abs().max() < 0.07  # no patch is favored


def test_it_learns_and_only_what_is_used_gets_gradients(photos):
    torch.manual_seed(0)
    model = make(class_token=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    shown, losses = visible(), []
    for _ in range(60):
        loss = model.loss(model(photos, shown), photos, shown) / (4 * 18)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused  # DDP would wait for them for ever
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert same == ["mean", "std"]


def test_equal_seeds_equal_weights():
    one, two = (build_masked(arch(), SIZE, MaskedRecipe(), seed=4).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_size_that_does_not_fit_is_a_usage_error():
    with pytest.raises(UsageError, match="not a multiple of patch size 4"):
        build_masked(arch(), (18, 24), MaskedRecipe(), seed=0)


@pytest.mark.parametrize("values", [{"ratio": 0.0}, {"ratio": 1.0}, {"decoder_blocks": 0}, {"decoder_width": 48}])
def test_wrong_numbers_are_refused(values):
    with pytest.raises(UsageError, match=f"masked.{next(iter(values))}"):
        recipe_from({"masked": values})
