import dataclasses

import pytest
import torch
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.classifier import Classifier
from vitseg.model.segmenter import build_model

ARCH = Architecture(
    patch_size=4, spatial_embedding=4, encoder_projection=28, blocks=2, heads=2, head_width=16, mlp_units=(48, 32),
    class_token=True, features_per_patch=8, decoder_projection=8, decoder_mlp_units=(16,),
)  # fmt: skip


def halves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise whose upper (0) or lower (1) half is darker."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    photos = torch.randint(120, 240, (count, 3, 16, 16), generator=generator)
    for photo, label in zip(photos, labels.tolist(), strict=True):
        photo[:, 8 * label : 8 * label + 8] //= 2
    return photos.to(torch.uint8), labels


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_learns_where_an_image_is_darker(pool):
    torch.manual_seed(0)
    model = Classifier(ARCH, (16, 16), classes=2, pool=pool)
    photos, labels = halves(64)
    assert torch.equal(model(photos), torch.zeros(64, 2))  # nothing is preferred before anything is learned
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(photos[:48]), labels[:48]).backward()
        optimizer.step()
    assert (model(photos[48:]).argmax(1) == labels[48:]).float().mean() > 0.9


def test_its_encoder_is_the_segmenters():
    classifier = Classifier(ARCH, (16, 16), classes=10)
    segmenter = build_model(ARCH, (16, 16), 19, seed=3)
    classifier.encoder.load_state_dict(segmenter.encoder.state_dict())
    photos = halves(2)[0]
    patches, grid = segmenter.cut(photos)
    assert torch.equal(classifier.encoder(*classifier.cut(photos)), segmenter.encoder(patches, grid))


def test_the_class_token_is_no_patch():
    """The mean is over patches, so without a class token it is the same network."""
    model = Classifier(dataclasses.replace(ARCH, class_token=False), (16, 16), classes=3)
    assert model(halves(2)[0]).shape == (2, 3)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match=r"model\.class_token=true"):
        Classifier(dataclasses.replace(ARCH, class_token=False), (16, 16), classes=3, pool="token")
    with pytest.raises(UsageError, match="pools by mean or token"):
        Classifier(ARCH, (16, 16), classes=3, pool="max")
    with pytest.raises(DataError, match=r"\(3, 4·n, 4·m\)"):
        Classifier(ARCH, (16, 16), classes=3)(torch.zeros(1, 3, 17, 16))
