import torch

from vitseg.architecture import Architecture
from vitseg.model.linear_decoder import LinearDecoder
from vitseg.model.segmenter import build_model

ARCH = Architecture(
    patch_size=4, encoder_projection=12, spatial_embedding=4, blocks=1, heads=2, head_width=4, mlp_units=(16, 24),
    decoder="linear",
)  # fmt: skip


def test_a_token_reaches_as_far_as_the_centers_of_the_tokens_around_it():
    torch.manual_seed(0)
    decoder = LinearDecoder(ARCH, channels=3)
    tokens = torch.rand(2, 12, 24)
    whole = decoder(tokens, torch.empty(0), (3, 4))
    assert whole.shape == (2, 3, 12, 16)
    tokens[:, 6] += 1  # row 1, column 2
    changed = (decoder(tokens, torch.empty(0), (3, 4)) - whole).abs().amax((0, 1)) > 1e-6
    assert changed[2:10, 6:14].all()
    assert changed.sum() == 64


def test_it_adds_one_layer_to_the_encoder():
    model = build_model(ARCH, (8, 8), 5, seed=0)
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder.")) == 24 * 5 + 5
