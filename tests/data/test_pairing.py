from vitseg.data.pairing import LABEL, PHOTO, SECOND_LABEL, Pairing
from vitseg.storage import ObjectInfo


def info(key: str) -> ObjectInfo:
    return ObjectInfo(key, len(key), "tag")


def test_objects_of_a_stem_come_together_whatever_the_order_they_are_listed_in():
    pairing = Pairing()
    pairing.add([("val", "b", LABEL, info("b.png")), ("train", "b", PHOTO, info("b.jpg"))])
    pairing.add([("val", "b", PHOTO, info("z.jpg")), ("val", "b", PHOTO, info("a.jpg"))])
    pairing.add([("train", "a", SECOND_LABEL, info("straße \udcff.png"))])
    assert list(pairing.stems()) == [
        ("train", "a", {SECOND_LABEL: [info("straße \udcff.png")]}),
        ("train", "b", {PHOTO: [info("b.jpg")]}),
        ("val", "b", {PHOTO: [info("a.jpg"), info("z.jpg")], LABEL: [info("b.png")]}),
    ]


def test_an_object_that_is_listed_twice_counts_once():
    pairing = Pairing()
    pairing.add([("train", "a", PHOTO, info("a.jpg"))] * 2)
    assert list(pairing.stems()) == [("train", "a", {PHOTO: [info("a.jpg")]})]
