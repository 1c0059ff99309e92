"""The same transform by litdata: `python -m tests.bench.preprocess_peer SOURCE FOLDER` prints images a second.

litdata comes from a folder of its own (see `loader_peers`).
"""

import functools
import sys
import time
from pathlib import Path

import numpy as np

from tests.bench.preprocess import transform
from vitseg.labels import CITYSCAPES, id_table

WORKERS = 2


def one(photo: str, table: np.ndarray) -> dict[str, bytes]:
    small, mask = transform(Path(photo), table)
    return {"jpg": small, "png": mask}


def main(source: str, folder: str) -> None:
    from litdata import optimize

    photos = [str(path) for path in sorted(Path(source).glob("leftImg8bit/*/*/*.png"))]
    start = time.perf_counter()
    make = functools.partial(one, table=id_table(CITYSCAPES))
    optimize(make, photos, folder, num_workers=WORKERS, chunk_bytes="64MB")
    sys.stdout.write(f"\n{len(photos) / (time.perf_counter() - start)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
