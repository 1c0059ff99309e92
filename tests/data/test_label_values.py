import numpy as np
import pytest

from vitseg.data.label_values import read_colors, read_gray, read_ids, read_palette
from vitseg.errors import SampleError
from vitseg.labels import Label

THREE = (Label("ground", (0, 0, 0), 0, 0), Label("a", (255, 0, 0), 1, 1), Label("b", (0, 255, 0), 2, 2))
CRACK = (Label("crack", (255, 255, 255), 255, 0),)


def gray(values, labels, *, bits=8, one_channel=True, only_ids=False, shares=None):
    values = np.array(values)
    shares = np.full(len(values), 1 / len(values)) if shares is None else np.array(shares)
    found = read_gray(values, shares, labels, bits=bits, one_channel=one_channel, only_ids=only_ids)
    return None if found is None else found.train_ids.tolist()


def test_255_is_ignored_unless_it_is_an_id():
    assert read_ids(np.array([0, 255, 7]), THREE).train_ids.tolist() == [0, 255, 255]
    assert read_ids(np.array([0, 255, 7]), THREE).known.tolist() == [True, True, False]
    assert read_ids(np.array([255]), THREE, void=False).known.tolist() == [False]
    assert read_ids(np.array([0, 255]), CRACK).train_ids.tolist() == [1, 0]


def test_in_a_binary_set_black_is_background_as_well():
    found = read_colors(np.array([(0, 0, 0), (255, 255, 255), (9, 9, 9)], np.uint8), CRACK)
    assert found.train_ids.tolist() == [1, 0, 255]
    assert found.known.tolist() == [True, True, False]
    dark = (Label("hole", (10, 10, 10), 3, 0),)
    assert read_colors(np.array([(0, 0, 0), (255, 255, 255)], np.uint8), dark).train_ids.tolist() == [1, 1]


def test_one_channel_is_ids_first_and_a_picture_else():
    assert gray([0, 2], THREE) == [0, 2]
    assert gray([0, 1], CRACK) == [1, 0]
    assert gray([0, 65535], CRACK, bits=16) == [1, 0]
    assert gray([0, 514], THREE, bits=16) == [0, 2]
    with pytest.raises(SampleError, match="ids that no class has: 513"):
        gray([0, 513], THREE, bits=16)
    with pytest.raises(SampleError, match="ids that no class has: -1, 7"):
        gray([-1, 0, 7], THREE)


def test_0_and_1_are_not_255_where_nothing_says_so():
    other = (Label("crack", (200, 30, 30), 7, 0),)
    for values, bits in (([0, 1], 8), ([0, 255], 1), ([0, 65535], 16)):
        with pytest.raises(SampleError, match="ids that no class has"):
            gray(values, other, bits=bits)


def test_fewer_bits_are_ids_where_these_are_listed():
    assert gray([0, 85, 170], THREE, bits=2) == [0, 1, 2]
    assert gray([0, 255], CRACK, bits=1) == [1, 0]
    assert gray([0, 255], (Label("crack", (9, 9, 9), 1, 0),), bits=1) == [1, 0]
    swapped = (Label("white", (255, 255, 255), 0, 0), Label("black", (0, 0, 0), 1, 1))
    with pytest.raises(SampleError, match="one thing as ids and another as what they show"):
        gray([0, 255], swapped, bits=1)


def test_several_gray_channels_are_colors_or_ids_but_not_both():
    assert gray([0, 1, 2], THREE, one_channel=False) == [0, 1, 2]
    assert gray([0, 1, 255], THREE, one_channel=False) == [0, 1, 255]
    assert gray([0, 7], THREE, one_channel=False) is None
    both = (Label("a", (0, 0, 0), 1, 0), Label("b", (1, 1, 1), 0, 1))
    with pytest.raises(SampleError, match="one thing as ids and another"):
        gray([0, 1], both, one_channel=False)
    assert gray([0, 1], both, one_channel=False, only_ids=True) == [1, 0]


def test_smoothed_edges_are_small():
    assert gray([0, 100, 200, 255], CRACK, shares=[0.5, 0.001, 0.001, 0.498]) == [1, 1, 0, 0]
    for shares in ([0.5, 0.006, 0.001, 0.493], [0.45, 0.05, 0.1, 0.4]):
        with pytest.raises(SampleError, match="ids that no class has"):
            gray([0, 100, 200, 255], CRACK, shares=shares)
    with pytest.raises(SampleError, match="ids that no class has"):  # small shares, but of everything between
        gray(range(256), CRACK, shares=[0.4, *[0.001] * 254, 0.346])


def test_a_palette_speaks_by_the_colors_that_occur():
    used = np.array([0, 1])
    for colors, wanted in {
        ((0, 0, 0), (255, 0, 0)): [0, 1],  # they agree
        ((7, 8, 9), (9, 8, 7)): [0, 1],  # nobody knows them
        ((0, 0, 0), (1, 1, 1)): [0, 1],  # a gray ramp
        ((255, 0, 0), (0, 0, 0)): None,
        ((0, 0, 0), (0, 255, 0)): None,
        ((2, 2, 2), (1, 1, 1)): None,  # ids as gray
    }.items():
        found = read_palette(used, np.array(colors, np.uint8), THREE)
        assert (None if found is None else found.train_ids.tolist()) == wanted, colors
    with pytest.raises(SampleError, match="palette shows colors of other classes"):
        read_palette(used, np.array([(0, 255, 0), (9, 9, 9)], np.uint8), THREE)
    assert read_palette(np.array([0, 7]), np.array([(0, 0, 0), (255, 0, 0)], np.uint8), THREE) is None


def test_ids_that_no_class_has_come_with_what_to_do():
    for values, labels, wanted in [
        ([0, 7], THREE[1:], "has: 0, 7; list them in classes.json, with train_id 255 if they should be ignored"),
        (
            [0, 99],
            (Label("crack", (9, 0, 0), 1, 0),),
            "list them in classes.json, with train_id 255 if they are background",
        ),
        ([0, 99], CRACK, "has: 99; save it with 0 and 255 alone"),
        (range(99), THREE, "7 …; list them in .* should be ignored, or save it without smoothed edges"),
    ]:
        with pytest.raises(
            SampleError, match=f"ids that no class {wanted}$" if wanted.startswith("has") else f"{wanted}$"
        ):
            gray(values, labels)
