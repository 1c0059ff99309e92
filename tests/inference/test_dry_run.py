import pytest

from vitseg.errors import UsageError
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.dry_run import SAMPLED, dry_run
from vitseg.inference.plan import plan_job

from .color_rule import model
from .conftest import RED, encode, gather_options, plain, put


def counts(source, dest, **options):
    found = dry_run(str(source), str(dest), **{"model": model()} | gather_options(options))
    return found.listed, found.done, found.todo, found.bytes


@pytest.fixture
def five(folders):
    source, dest = folders
    for number in range(5):
        put(source, f"city/{number}.png", encode(plain(RED)))
    return source, dest


def test_it_counts_and_writes_nothing(five, rule):
    source, dest = five
    size = len(encode(plain(RED)))
    assert counts(source, dest) == (5, 0, 5, 5 * size)
    assert not dest.exists()
    segment_chunk(plan_job(str(source), str(dest), model=model(), chunk_images=2), 0)
    before = sorted(dest.rglob("*"))
    assert counts(source, dest) == (5, 2, 3, 3 * size)
    assert counts(source, dest, ids="label")[1] == 0
    assert counts(source, dest, flip=True)[1] == 0
    rule.sha256 = "b" * 64
    assert counts(source, dest, model=model("b" * 64))[1] == 0
    assert sorted(dest.rglob("*")) == before


def test_it_tells_how_long_all_would_take_from_a_sample(folders, rule):
    source, dest = folders
    for number in range(3 * SAMPLED):
        put(source, f"{number}.png", encode(plain(RED)) if number % 3 else b"broken")
    rule.delay = 0.01
    found = dry_run(str(source), str(dest), model=model(), batch_size=1, price_per_hour=36.0)
    assert found.sampled == SAMPLED
    assert 3 < found.sample_failed < 20  # a third of the sample, as of all
    # Two of three objects wait for the model: no more than 150 a second, and much is left of that.
    assert 20 < found.images_per_second < 170
    assert found.seconds == pytest.approx(found.todo / found.images_per_second, abs=0.1)
    assert found.price == pytest.approx(found.seconds / 100, abs=0.01)
    assert len(rule.moments) < 2 * SAMPLED
    assert not dest.exists()


def test_where_nothing_is_to_do_no_model_is_asked(five, rule):
    source, dest = five
    segment_chunk(plan_job(str(source), str(dest), model=model()), 0)
    rule.moments.clear()
    found = dry_run(str(source), str(dest), model=model())
    assert (found.todo, found.images_per_second, found.seconds, found.price) == (0, None, None, None)
    assert rule.moments == []


def test_wrong_options_are_refused(five):
    with pytest.raises(UsageError):
        counts(*five, ids="names")
