"""What a start decides of a network, and what is named where something is wrong with it."""

import pytest

from vitseg.architecture import Architecture
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.labels import Label
from vitseg.origin import Origin
from vitseg.training.start import NetworkStart, named

CAR = (Label("car", (0, 0, 142), 26, 0),)


@pytest.mark.parametrize("kind", [DataError, UsageError])
def test_what_is_wrong_begins_with_the_address(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^--init hf:a/b: too short$"), named("hf:a/b"):
        raise kind("too short")
    with pytest.raises(NotFoundError, match=r"^not there$"), named("hf:a/b"):
        raise NotFoundError("not there")


def test_a_whole_network_decides_the_depths_that_its_decoder_gets_and_an_encoder_does_not() -> None:
    arch = Architecture(blocks=2, depths=1)
    whole, encoder = (NetworkStart("here", Origin(), {}, arch, (16, 16), classes) for classes in (CAR, None))
    assert whole.encoder["depths"] == 1
    assert "depths" in whole.free
    assert "depths" not in encoder.encoder
