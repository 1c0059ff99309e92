"""Classes are matched by name, whatever their order, ids and colors."""

from hypothesis import given
from hypothesis import strategies as st

from vitseg.class_change import ClassChange, class_change, match_names


def test_what_became_of_the_classes_of_a_list() -> None:
    change = class_change(("road", "car", "sky"), ("sky", "bus", "road"))
    assert change == ClassChange(shared=("sky", "road"), added=("bus",), removed=("car",))
    assert not change.is_none
    assert class_change(("road", "sky"), ("sky", "road")).is_none  # another order is the same


def test_a_name_is_the_same_in_every_unicode_form() -> None:
    assert match_names(["cafe\u0301", " sky"], ["sky", "caf\u00e9"]) == [1, 0]
    assert match_names(["Sky"], ["sky"]) == [None]


@given(st.lists(st.sampled_from("abcd"), unique=True), st.lists(st.sampled_from("abcd"), unique=True))
def test_no_class_is_matched_twice_or_lost(before: list[str], after: list[str]) -> None:
    places = [place for place in match_names(before, after) if place is not None]
    assert len(set(places)) == len(places)
    change = class_change(before, after)
    assert sorted([*change.shared, *change.added]) == sorted(after)
    assert sorted([*change.shared, *change.removed]) == sorted(before)
    assert not set(change.added) & set(change.removed)
