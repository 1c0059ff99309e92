import pytest

from vitseg.errors import UsageError
from vitseg.inference.context import STAGES, Stopwatch, chunk_context
from vitseg.inference.job import Options
from vitseg.inference.plan import plan_job
from vitseg.precision import Precision
from vitseg.storage import open_store

from .color_rule import CLASSES, ColorRule, model
from .conftest import RED, encode, halves, plain, put, run

FLOAT32 = Precision("float32", "of a test")


def test_the_summary_tells_where_the_time_went(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(halves(300, 200)))
    _, summary = run(source, dest)
    busy = {name for name, seconds in summary.stage_seconds.items() if seconds > 0}
    assert busy >= {"fetch", "decode", "forward", "encode"}
    assert summary.stage_seconds["check"] == 0  # nothing lay there
    assert run(source, dest)[1].stage_seconds["check"] > 0


def test_a_stage_that_fails_is_counted_too():
    stopwatch = Stopwatch()
    assert stopwatch.seconds == dict.fromkeys(STAGES, 0)
    with pytest.raises(ZeroDivisionError), stopwatch.measure("decode"):
        _ = 1 / 0
    assert stopwatch.seconds["decode"] > 0


@pytest.mark.parametrize("options", [Options(ids="label"), Options(also=("overlay",))])
def test_a_model_without_classes_has_no_ids_and_no_pictures(folders, options):
    source, dest = folders
    put(source, "x.png", encode(plain(RED)))
    job = plan_job(str(source), str(dest), model=model(), options=options)
    store = open_store(str(dest))
    with pytest.raises(UsageError, match="has no classes"):
        chunk_context(job, ColorRule(classes=()), store, FLOAT32, fresh=True)
    context = chunk_context(job, ColorRule(), store, FLOAT32, fresh=True)
    assert context.numbers.tolist() == ([label.id for label in CLASSES] if options.ids == "label" else [0, 1, 2])
