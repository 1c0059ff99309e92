"""Graphs whose recording failed: stand-ins that behave as torch's do."""

from vitseg import cuda_recording
from vitseg.cuda_recording import first_cause, give_up


class Graph:
    """As torch's: its pool is told only once the recording has ended."""

    def __init__(self, *, ended: bool) -> None:
        self.ended, self.was_reset = ended, False

    def pool(self) -> tuple[int, int]:
        if not self.ended:
            raise RuntimeError("called before capture_end")
        return (0, 1)

    def reset(self) -> None:
        self.was_reset = True


def test_memory_of_a_recording_that_ended_is_free_again() -> None:
    graph = Graph(ended=True)
    give_up(graph)
    assert graph.was_reset
    assert graph not in cuda_recording._unfinished


def test_a_graph_that_is_still_recorded_lives_on() -> None:
    graph = Graph(ended=False)
    give_up(graph)
    assert not graph.was_reset
    assert cuda_recording._unfinished.pop() is graph


def test_the_first_of_two_errors_is_told() -> None:
    error = RuntimeError("the recording was broken off")
    error.__context__ = RuntimeError("out of memory\nand more")
    assert first_cause(error) == "out of memory"
    assert first_cause(RuntimeError("")) == "RuntimeError"
