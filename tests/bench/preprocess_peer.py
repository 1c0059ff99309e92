"""The same transform by litdata: `… -m tests.bench.preprocess_peer SOURCE pillow|ours FOLDER` prints images a second.

litdata is installed into a folder of its own (see `loader_peers`).
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.preprocess import by_pillow, transform
from vitseg.data.label_values import read_ids
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import decode_stored
from vitseg.labels import CITYSCAPES

WORKERS = 2


def by_us(path: Path) -> Image.Image:
    return decode_stored(path.read_bytes(), MAX_PIXELS)


def one(photo: str, table: np.ndarray, decode: Callable[[Path], Image.Image]) -> dict[str, bytes]:
    small, mask = transform(Path(photo), table, decode)
    return {"jpg": small, "png": mask}


def main(source: str, decoder: str, folder: str) -> None:
    from litdata import optimize

    photos = [str(path) for path in sorted(Path(source).glob("leftImg8bit/*/*/*.png"))]
    start = time.perf_counter()
    make = functools.partial(
        one, table=read_ids(np.arange(256), CITYSCAPES).train_ids, decode={"pillow": by_pillow, "ours": by_us}[decoder]
    )
    optimize(make, photos, folder, num_workers=WORKERS, chunk_bytes="64MB")
    sys.stdout.write(f"\n{len(photos) / (time.perf_counter() - start)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
