"""Progress, and the time left, on a terminal and elsewhere."""

import pytest
from rich.progress import Progress

from flows.display import console


def test_what_an_earlier_run_did_does_not_shorten_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 0.1, 20.0, 40.0, 60.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("segmenting", 500, "objects") as show:
        for done in (180, 200, 220, 240):  # the first were found done; then 20 in 20 seconds
            show(done, 500)
    assert "segmenting: 240/500 objects, 260 s left" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "is_shown"), [(None, False), (100, True)])
def test_the_time_left_is_shown_if_the_total_is_known(total, is_shown):
    with Progress(console._TimeLeftColumn()) as bar:
        bar.add_task("listing", total=total)
        (task,) = bar.tasks
        assert ("left" in console._TimeLeftColumn().render(task).plain) == is_shown
