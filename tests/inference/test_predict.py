import numpy as np
import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.plan import plan_job
from vitseg.labels import train_classes
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model

from .conftest import BLUE, RED, encode, halves, plain, put, read_ids, rows, run

SIZE = (16, 24)


ARCHITECTURE = Architecture(
    patch_size=8, encoder_projection=8, blocks=1, heads=1, head_width=4, mlp_units=(8,), decoder_projection=8,
    decoder_mlp_units=(8,),
)  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    network = build_model(ARCHITECTURE, SIZE, 19, seed=1)
    sha256 = save_bundle(tmp_path / "bundle", network, train_classes())
    return ModelRef(name="streets", version="1", sha256=sha256, folder=str(tmp_path / "bundle"))


def masks(source, dest, model, **options):
    job = plan_job(str(source), str(dest), model=model, options=Options(**options))
    assert segment_chunk(job, 0).failed == 0
    return {path.name: read_ids(path) for path in sorted(dest.glob("*.png"))}


def test_where_both_apply_tiles_and_resizing_are_whole_image_inference(folders, bundle):
    source, dest = folders
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    put(source, "x.png", encode(photo))
    whole = load_bundle(bundle.folder).predict(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].argmax(0).numpy()
    np.testing.assert_array_equal(masks(source, dest / "resized", bundle)["x.png.png"], whole)
    np.testing.assert_array_equal(masks(source, dest / "tiled", bundle, tile=True)["x.png.png"], whole)


def test_flips_give_the_mean_of_both_outputs(folders, bundle):
    source, dest = folders
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    put(source, "x.png", encode(photo))
    put(source, "mirrored.png", encode(np.ascontiguousarray(photo[:, ::-1])))
    network = load_bundle(bundle.folder)
    images = torch.from_numpy(photo).permute(2, 0, 1)[None]
    both = (network.predict(images) + network.predict(images.flip(-1)).flip(-1)) / 2
    assert not torch.equal(both.argmax(1), network.predict(images).argmax(1))
    for tile in (False, True):
        found = masks(source, dest / str(tile), bundle, flip=True, tile=tile)
        np.testing.assert_array_equal(found["x.png.png"], both[0].argmax(0).numpy())
        # What makes it worth twice the time: a mirror image gets the mirrored mask.
        np.testing.assert_array_equal(found["mirrored.png.png"][:, ::-1], found["x.png.png"])


def test_images_of_different_sizes_share_a_batch(folders, rule):
    source, dest = folders
    for number, (width, height) in enumerate([(5, 9), (40, 3), (1, 1), (300, 200), (8, 12), (12, 8)]):
        put(source, f"{number}.png", encode(plain(RED if number % 2 else BLUE, width, height)))
    _, summary = run(source, dest, chunk_images=10, batch_size=3)
    assert summary.ok == 6
    assert len(rule.moments) == 2  # calls of the model
    assert [read_ids(dest / f"{number}.png.png").max() for number in range(6)] == [2, 0, 2, 0, 2, 0]


def test_tiles_keep_what_shrinking_loses(folders, rule):
    source, dest = folders
    image = plain(RED, 61, 43)
    image.putpixel((50, 40), BLUE)
    put(source, "x.png", encode(image))
    run(source, dest)
    assert not read_ids(dest / "x.png.png").any()
    run(source, dest, tile=True)
    assert np.argwhere(read_ids(dest / "x.png.png") == 2).tolist() == [[40, 50]]


def test_every_tile_is_normalized_by_its_whole_photograph(folders, rule):
    source, dest = folders
    image = halves(61, 43)
    put(source, "x.png", encode(image))
    run(source, dest)
    assert rule.moments == [None]
    run(source, dest, tile=True)
    pixels = np.asarray(image, np.float64)
    assert len(rule.moments) > 5
    for moments in rule.moments[1:]:
        assert moments == pytest.approx((pixels.mean(), pixels.std()))


def test_an_image_that_is_broken_behind_its_header_is_a_row_with_tiles_too(folders, rule):
    source, dest = folders
    put(source, "a.png", encode(halves()))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    put(source, "cut.png", encode(noise)[:-600])
    put(source, "z.png", encode(halves()))
    job, summary = run(source, dest, tile=True)
    assert (summary.ok, summary.failed) == (2, 1)
    assert "broken" in rows(job)[1]["error"]


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_real_bundle(folders, target):
    source, dest = folders
    arch = Architecture(patch_size=8, encoder_projection=8, blocks=1, heads=1, head_width=4, mlp_units=(8,),
                        decoder_projection=8, decoder_mlp_units=(8,), target=target)  # fmt: skip
    size = (16, 24)
    network = build_model(arch, size, 19, seed=1)
    folder = dest.with_name("bundle")
    sha256 = save_bundle(folder, network, train_classes())
    rng = np.random.default_rng(0)
    photos = {f"{number}.png": rng.integers(0, 256, (*size, 3), np.uint8) for number in range(3)}
    for name, photo in photos.items():
        put(source, name, encode(photo))
    reference = ModelRef(name="streets", version="1", sha256=sha256, folder=str(folder))
    job = plan_job(str(source), str(dest), model=reference)
    assert segment_chunk(job, 0).ok == 3
    bundle = load_bundle(folder)
    for name, photo in photos.items():  # of the model's own size: nothing is resized
        scores = bundle.predict(torch.from_numpy(photo).permute(2, 0, 1)[None])
        assert np.array_equal(read_ids(dest / f"{name}.png"), scores[0].argmax(0).cpu().numpy())
    assert all(sum(row["class_fractions"]) == pytest.approx(1) for row in rows(job))
    (folder / "model.safetensors").unlink()
    assert (
        segment_chunk(plan_job(str(source), str(dest), model=reference, options=Options(ids="label")), 0).ok == 3
    )  # from memory
