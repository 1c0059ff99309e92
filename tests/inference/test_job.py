import pytest

from vitseg.errors import UsageError
from vitseg.inference.job import Options, job_digest, key_problem, mask_key, picture_key
from vitseg.storage import LocalStore
from vitseg.storage.s3 import S3Store

from .color_rule import model


def test_the_text_in_masks_and_the_names_of_jobs_stay_as_they_are():
    """Masks and unfinished jobs of earlier releases are found by them."""
    assert Options().signature() == "ids=train also= tile=false"
    options = Options(ids="label", also=("overlay", "color", "overlay"), tile=True, flip=True)
    assert options.signature() == "ids=label also=color,overlay tile=true flip=true"
    assert job_digest("s3://photos", "s3://masks", model(), options) == "3976a85c3975"
    assert (mask_key("a/b.jpg"), picture_key("overlay", "a/b.jpg")) == (
        "a/b.jpg.png",
        "_vitseg/also/overlay/a/b.jpg.jpg",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ids": "names"}, "train or label"), ({"also": ("colors",)}, "--also colors"), ({"max_pixels": 0}, "at least 1")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Options(**options)


@pytest.mark.parametrize("key", ["a/../b.png", "a//b.png", "/b.png", "n" * 252, "d/" * 2100, "\udcff.png", "a\0b"])
def test_keys_that_no_folder_can_hold_have_a_reason(tmp_path, key):
    assert key_problem(key, LocalStore(tmp_path))
    assert key_problem("a/b c/\u65e5.png", LocalStore(tmp_path)) is None


@pytest.mark.parametrize("key", ["a/../b.png", "../b.png", "./b.png", "a/./b.png"])
def test_a_key_that_many_buckets_would_read_as_another_place_has_a_reason(key):
    assert "elsewhere" in key_problem(key, S3Store("bucket", "masks"))
    assert all(key_problem(key, S3Store("bucket", "masks")) is None for key in ("/b.png", "a//b.png", "..b/.c.png"))
