"""Other libraries that read the same samples, each as its documentation shows: two workers, shuffled, tensor batches.

A library whose requirements conflict with the project's packages is installed into a folder of its own, without them:
`python -m tests.bench.loader_peers KIND SHARDS FOLDER EPOCHS BATCH` prints samples a second.
"""

import io
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.bench.measure import log

WORKERS = 2
PACKAGES = {
    "webdataset": (),
    "litdata": ("litdata==0.2.76", "lightning-utilities", "obstore", "tifffile"),
    # Its pins (numpy < 2.2) conflict with the project's; what it really needs does not.
    "streaming": (
        "mosaicml-streaming==0.13.0", "brotli", "python-snappy", "cramjam", "xxhash", "zstd", "catalogue",
    ),
}  # fmt: skip


def name_of(kind: str) -> str:
    """Return a peer's name and version, where the project's packages don't fix it."""
    return PACKAGES[kind][0].replace("==", " ") if PACKAGES[kind] else kind


def run_beside(kind: str, folder: Path, *command: str) -> str:
    """Run a module with one of `PACKAGES`, installed beside the project's own; return the last word it prints."""
    packages = folder / f"packages-{kind}"
    if PACKAGES[kind] and not packages.exists():
        log(f"installing {PACKAGES[kind][0]} beside the project")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        install += ["--target", str(packages), *PACKAGES[kind]]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = os.pathsep.join([str(Path.cwd()), str(packages)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout.split()[-1]


def samples_per_second(kind: str, shards: str, folder: Path, epochs: int, batch: int) -> float:
    """Return samples a second of one of `PACKAGES`, in its own processes; writing its files before is not timed."""
    command = ("tests.bench.loader_peers", kind, shards, str(folder / kind), str(epochs), str(batch))
    return float(run_beside(kind, folder, *command))


def decode(sample: dict[str, bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode in the usual way, with Pillow and NumPy: a tensor (3, H, W) and one (H, W)."""
    photo = np.asarray(Image.open(io.BytesIO(sample["jpg"])))
    label = np.array(Image.open(io.BytesIO(sample["png"])))
    return torch.from_numpy(photo.transpose(2, 0, 1).copy()), torch.from_numpy(label)


def stored(shards: str) -> Iterator[dict[str, bytes]]:
    """Yield the samples of a data set as they are stored."""
    import webdataset

    tars = sorted(str(path) for path in Path(shards).glob("train-*.tar"))
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        yield {"jpg": sample["jpg"], "png": sample["png"]}


def stock_webdataset(shards: str, folder: Path, batch: int) -> Iterable[Any]:
    import webdataset

    tars = sorted(str(path) for path in Path(shards).glob("train-*.tar"))
    data = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(256).map(decode).batched(batch)
    return webdataset.WebLoader(data, batch_size=None, num_workers=WORKERS, persistent_workers=True)


def litdata(shards: str, folder: Path, batch: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    if not folder.exists():
        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        for number, sample in enumerate(stored(shards)):
            writer.add_item(number, sample)
        writer.done()
        writer.merge(num_workers=1)

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return decode(super().__getitem__(index))

    data = Decoded(str(folder), shuffle=True, drop_last=False)
    return StreamingDataLoader(data, batch_size=batch, num_workers=WORKERS, persistent_workers=True)


def streaming(shards: str, folder: Path, batch: int) -> Iterable[Any]:
    packages = Path(os.environ["PYTHONPATH"].split(os.pathsep)[-1])
    parent = types.ModuleType("streaming")  # its own __init__ imports torchvision and more, which nothing here uses
    parent.__path__ = [str(packages / "streaming")]
    sys.modules["streaming"] = parent
    from streaming.base import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes", "png": "bytes"}, size_limit="64mb") as writer:
            for sample in stored(shards):
                writer.write(sample)

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return decode(super().__getitem__(index))

    data = Decoded(local=str(folder), shuffle=True, batch_size=batch)
    return DataLoader(data, batch_size=batch, num_workers=WORKERS, persistent_workers=True)


KINDS: dict[str, Callable[[str, Path, int], Iterable[Any]]] = {
    "webdataset": stock_webdataset, "litdata": litdata, "streaming": streaming,
}  # fmt: skip


def main(kind: str, shards: str, folder: str, epochs: str, batch: str) -> None:
    torch.set_num_threads(1)
    loader = KINDS[kind](shards, Path(folder), int(batch))
    count = sum(len(images) for images, _ in loader)  # workers start, files enter the cache
    start = time.perf_counter()
    seen = sum(len(images) for _ in range(int(epochs)) for images, _ in loader)
    rate = seen / (time.perf_counter() - start)
    if seen != count * int(epochs):
        raise RuntimeError(f"{seen} samples in {epochs} epochs of {count}")
    sys.stdout.write(f"{rate}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
