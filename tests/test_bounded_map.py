from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from vitseg.bounded_map import bounded_map


def test_results_come_in_order_and_only_some_are_under_way():
    submitted = []

    def submit(number: int) -> Future[int]:
        submitted.append(number)
        future: Future[int] = Future()
        future.set_result(number * number)
        return future

    for number, future in bounded_map(submit, range(10), 3):
        assert future.result() == number * number
        assert len(submitted) <= number + 3
    assert submitted == list(range(10))
    assert list(bounded_map(submit, [], 3)) == []


def test_what_has_not_begun_when_the_caller_stops_never_begins():
    begun = []
    with ThreadPoolExecutor(1) as pool:
        results = bounded_map(lambda number: pool.submit(begun.append, number), range(1000), 500)
        next(results)
        results.close()
    assert len(begun) < 500


def test_an_error_is_that_of_its_item():
    with ThreadPoolExecutor(1) as pool:
        results = bounded_map(lambda number: pool.submit(divmod, 1, number), [1, 0, 1], 2)
        assert next(results)[1].result() == (1, 0)
        number, future = next(results)
        assert number == 0
        with pytest.raises(ZeroDivisionError):
            future.result()
        assert next(results)[1].result() == (1, 0)
