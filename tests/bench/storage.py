"""Reading many small objects of a bucket, the embedded one: through s3fs at once, beside boto3 one after the other."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s3fs import S3FileSystem

from tests.bench.measure import Figure, compare, cpu_seconds, log, wall_seconds
from tests.faulty_store import FaultyStore, through
from vitseg.storage import Store, open_store

OBJECTS = 2000
SIZE = 20_000
FAR = 0.02
"""Seconds that a bucket in another region takes for an answer."""
FEW = 200


def figures(folder: Path) -> Iterator[Figure]:
    from flows.stack import environment, stack

    os.environ["VITSEG_HOME"] = str(folder / "home")
    stack.up(servers=["s3"])
    environment.enter(only_stack=True)
    try:
        store = open_store("s3://vitseg/many")
        log(f"writing {OBJECTS} objects")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.write(f"{number % 20}/{number:05}", os.urandom(SIZE)), range(OBJECTS)))
        yield from _figures(store)
    finally:
        stack.down()


def _figures(store: Store) -> Iterator[Figure]:
    keys = [info.key for info in store.list()]

    def at_once(count: int = OBJECTS) -> None:
        assert sum(len(data) for data, _ in store.read_many(keys[:count])) == count * SIZE

    def one_by_one(count: int = OBJECTS) -> None:
        assert sum(len(store.read(key)) for key in keys[:count]) == count * SIZE

    system = S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    yield compare(
        f"storage: CPU time of listing {OBJECTS} objects, boto3 / s3fs",
        cpu_seconds(lambda: list(store.list())), cpu_seconds(lambda: system.find(store.root, detail=True)),
        goal=None, better="lower", rounds=5,
    )  # fmt: skip
    yield compare(
        f"storage: CPU time of reading {OBJECTS} objects of {SIZE} bytes, at once by s3fs / one by one by boto3",
        cpu_seconds(at_once), cpu_seconds(one_by_one), goal=1.1, better="lower",
    )  # fmt: skip
    with FaultyStore(os.environ["AWS_ENDPOINT_URL_S3"], share=1.0, kinds=("stall",), stall=FAR) as far, through(far):
        yield compare(
            f"storage: seconds for {FEW} objects, answers late by {FAR * 1000:.0f} ms, at once by s3fs / one by one by boto3",
            wall_seconds(lambda: at_once(FEW)), wall_seconds(lambda: one_by_one(FEW)), goal=0.5, better="lower",
        )  # fmt: skip
