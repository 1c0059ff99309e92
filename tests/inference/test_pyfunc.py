"""What MLflow serves and what `segment` writes is the same, byte for byte, for every photograph that is read."""

import numpy as np
import pytest
from PIL import Image

from tests.images.photographs import photographs
from vitseg.architecture import Architecture
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import decode_image
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import ModelRef
from vitseg.inference.plan import plan_job
from vitseg.inference.pyfunc import load_predictor
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model

from .conftest import put

SIZE = (16, 24)


@pytest.fixture(params=["classes", "images"])
def model(request, tmp_path):
    """A bundle that gives classes, and one that gives images."""
    arch = Architecture(
        patch_size=8, encoder_projection=8, blocks=1, heads=1, head_width=4, mlp_units=(8,), decoder_projection=8,
        decoder_mlp_units=(8,), target="classes" if request.param == "classes" else "rgb",
    )  # fmt: skip
    classes = train_classes() if request.param == "classes" else ()
    sha256 = save_bundle(tmp_path / "bundle", build_model(arch, SIZE, len(classes), seed=1), classes)
    return ModelRef(name="streets", version="1", sha256=sha256, folder=str(tmp_path / "bundle"))


def test_what_mlflow_serves_is_what_segment_writes(folders, model):
    source, dest = folders
    for name, data in photographs().items():
        put(source, name, data)
    job = plan_job(str(source), str(dest), model=model)
    predictor = load_predictor(model.folder)
    counts = [segment_chunk(job, index) for index in range(job.chunks)]
    assert sum(each.ok for each in counts) == len(photographs()) == job.listed
    seen = set()
    for name, data in photographs().items():
        photo = np.asarray(decode_image(data, MAX_PIXELS))
        found = predictor.predict(photo[None])[0]
        with Image.open(dest / f"{name}.png") as mask:
            np.testing.assert_array_equal(found, np.asarray(mask), err_msg=name)
        seen |= set(np.unique(found))
    assert len(seen) > 3


def test_a_batch_gives_what_each_of_its_images_gives(model):
    photos = np.random.default_rng(0).integers(0, 256, (5, 40, 52, 3), np.uint8)
    predictor = load_predictor(model.folder)
    together = predictor.predict(photos)
    assert together.shape[:3] == (5, 40, 52)
    assert together.dtype == np.uint8
    for photo, found in zip(photos, together, strict=True):
        assert (predictor.predict(photo[None])[0] == found).mean() > 0.999  # but for rounding
    assert predictor.predict(photos[:0]).shape == (0, *together.shape[1:])
