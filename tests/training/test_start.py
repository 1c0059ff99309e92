"""What a start decides of a network, and what is named where something is wrong with it."""

import pytest

from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.training.start import named


@pytest.mark.parametrize("kind", [DataError, UsageError])
def test_what_is_wrong_begins_with_the_address(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^--init hf:a/b: too short$"), named("hf:a/b"):
        raise kind("too short")
    with pytest.raises(NotFoundError, match=r"^not there$"), named("hf:a/b"):
        raise NotFoundError("not there")
