import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.data.color_labels import almost_colors, exact_colors, near_share, nearest_colors
from vitseg.labels import CITYSCAPES, Label, palette, train_classes

CLASSES = train_classes()
noise = st.tuples(*[st.integers(-4, 4)] * 3)


def image_of(*colors):
    return np.array([colors], np.uint8)


@settings(deadline=None)  # the first example builds the table
@given(st.sampled_from(CLASSES), noise)
def test_a_color_with_a_little_noise_keeps_its_class(label, delta):
    color = np.clip(np.array(label.color) + delta, 0, 255)
    assert nearest_colors(image_of(color), CITYSCAPES)[0].item() == label.train_id


@settings(deadline=None)  # the first example builds the table
@given(st.sampled_from(["unlabeled", "static", "dynamic", "ground", "parking", "rail track", "trailer"]), noise)
def test_colors_of_classes_that_nobody_learns_are_ignored(name, delta):
    label = next(label for label in CITYSCAPES if label.name == name)
    color = np.clip(np.array(label.color) + delta, 0, 255)
    assert nearest_colors(image_of(color), CITYSCAPES)[0].item() == 255


def test_colors_far_from_any_class_are_ignored():
    far = image_of((255, 255, 255), (0, 255, 0), (0, 255, 255))
    assert (nearest_colors(far, CITYSCAPES)[0] == 255).all()


def test_the_guard_rail_s_gray_is_taken_for_the_edge_of_a_fence():
    # In lossy labels this color is nearly always a blend; taken as it is, it would be ignored.
    assert nearest_colors(image_of((180, 165, 180)), CITYSCAPES)[0].item() == 4


def test_labels_survive_jpeg():
    ids = np.repeat(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4), 32, 0), 32, 1)
    out = io.BytesIO()
    Image.fromarray(palette(CLASSES)[ids]).save(out, "JPEG", quality=85)
    lossy = np.asarray(Image.open(out))
    assert not (lossy == palette(CLASSES)[ids]).all(-1).all()
    decoded, _ = nearest_colors(lossy, CITYSCAPES)
    inner = np.s_[8:24]
    tiles = decoded.reshape(4, 32, 4, 32)[:, inner, :, inner]
    assert (tiles == np.arange(16).reshape(4, 1, 4, 1)).all()
    assert (decoded == ids).mean() > 0.97


def test_exact_colors_give_their_class_and_others_none():
    rgb = image_of((128, 64, 128), (0, 0, 142), (0, 0, 0), (129, 64, 128))
    assert exact_colors(rgb, CITYSCAPES)[0].tolist() == [[0, 13, 255, 255]]


def test_neighboring_colors_are_kept_apart_exactly():
    labels = (
        Label("a", (10, 10, 10), 1, 0),
        Label("b", (10, 10, 11), 2, 1),
        Label("c", (255, 255, 255), 3, 2),
    )
    rgb = image_of((10, 10, 11), (10, 10, 10), (255, 255, 255))
    assert exact_colors(rgb, labels)[0].tolist() == [[1, 0, 2]]


def test_of_labels_that_share_a_color_the_trained_one_counts():
    labels = (Label("void", (0, 0, 0), 0), Label("a", (0, 0, 0), 1, 0), Label("b", (9, 9, 9), 2, 1))
    assert exact_colors(image_of((0, 0, 0), (9, 9, 9)), labels)[0].tolist() == [[0, 1]]
    assert nearest_colors(image_of((1, 1, 1)), labels)[0].item() == 0


def test_a_trained_class_keeps_its_color_even_if_others_ignore_it_in_lossy_labels():
    labels = (Label("wall", (0, 0, 0), 0, 0), Label("tunnel", (150, 120, 90), 16, 1))
    assert nearest_colors(image_of((148, 120, 92)), labels)[0].item() == 1


def test_colors_of_no_class_are_told_from_those_of_classes():
    _, known = exact_colors(image_of((128, 64, 128), (129, 64, 128)), CITYSCAPES)
    assert known.tolist() == [[True, False]]
    assert nearest_colors(image_of((128, 66, 128), (0, 255, 0)), CITYSCAPES)[1] == 1


def test_in_a_binary_set_every_color_of_a_lossy_label_is_the_nearer_of_two():
    crack = (Label("crack", (255, 255, 255), 255, 0),)
    grays = image_of(*[(value, value, value) for value in range(256)])
    train_ids, far = nearest_colors(grays, crack)
    assert train_ids.tolist() == [[1] * 128 + [0] * 128]
    assert far == 0


def test_a_photograph_is_not_near_the_colors_of_classes():
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert near_share(photo, CITYSCAPES) < 0.2


def test_a_color_is_almost_a_class_s_within_a_few_steps():
    train_ids, almost = almost_colors(image_of((128, 70, 121), (0, 0, 150), (40, 40, 40))[0], CITYSCAPES)
    assert train_ids[:2].tolist() == [0, 13]
    assert almost.tolist() == [True, True, False]


def test_a_list_of_one_color_alone_has_none():
    labels = tuple(Label(str(at), (0, 0, 0), at, at) for at in range(3))
    for read in (exact_colors, almost_colors):
        train_ids, known = read(np.zeros((4, 3), np.uint8), labels)
        assert train_ids.tolist() == [255] * 4
        assert not known.any()


def test_black_that_a_thing_shares_with_its_background_is_unknown():
    labels = (Label("hole", (0, 0, 0), 7, 0), Label("void", (0, 0, 0), 9))
    assert exact_colors(image_of((0, 0, 0), (255, 255, 255)), labels)[1].tolist() == [[False, True]]
