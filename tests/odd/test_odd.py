"""A few seconds of `python -m tests.odd`, the same ones each time."""

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.odd.judge import workplace
from tests.odd.tries import TRIES

EXAMPLES = {"photographs": 6, "masks": 12, "folders": 8, "addresses": 5, "targets": 4, "outputs": 3}


# The product sets this filter when it is imported, but pytest forgets it.
@pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")
@pytest.mark.parametrize("kind", TRIES)
def test_odd_input_is_read_as_it_is_meant_or_told(kind: str) -> None:
    @settings(
        max_examples=EXAMPLES[kind], derandomize=True, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to look for a smaller one takes minutes, and the line says what is odd
    )  # fmt: skip
    @given(st.randoms(use_true_random=False))
    def holds(r: random.Random) -> None:
        with workplace() as work:
            assert TRIES[kind](r, work).bad == []

    holds()
