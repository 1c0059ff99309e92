"""What parameters offer is what the library knows, no more and no less."""

from typing import get_args

from flows import choices
from vitseg.config import presets
from vitseg.data.sources import LAYOUTS
from vitseg.inference.job import PICTURES


def test_every_word_is_known() -> None:
    assert set(get_args(choices.Preset)) == set(presets())
    assert get_args(choices.Layout) == ("auto", *LAYOUTS)
    assert get_args(choices.Picture) == tuple(PICTURES)
