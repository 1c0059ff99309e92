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


def test_what_is_under_way_costs_no_more_than_the_budget_but_for_one_that_costs_more_by_itself():
    under_way = set()

    def submit(cost: int) -> Future[int]:
        under_way.add(cost)
        assert sum(under_way) <= 10 or under_way == {cost}
        future: Future[int] = Future()
        future.set_result(cost)
        return future

    costs = [4, 5, 3, 7, 20, 1, 2, 6]
    results = bounded_map(submit, costs, 3, cost=lambda cost: cost, budget=10)
    assert next(results)[0] == 4
    assert under_way == {4, 5}
    found = [4]
    under_way.remove(4)
    for cost, future in results:
        found.append(future.result())
        under_way.remove(cost)
    assert found == costs
