"""Shards → batches: exact, resumable at any step, and the same for any number of ranks.

`order` decides which sample comes when; here, threads open the next shards and decode a few batches ahead. What a batch
consists of is known before anything is read, so resuming reads nothing twice.
"""

import io
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitseg.data.features import Features
from vitseg.data.manifest import Manifest
from vitseg.data.order import check_batch, epoch_flips, epoch_order, rank_rows, stored_order
from vitseg.data.prefetch import ShardPrefetcher
from vitseg.data.shard_cache import ShardCache
from vitseg.data.tar_index import OpenShard, ShardIndex, index_shard
from vitseg.errors import DataError, SampleError, UsageError
from vitseg.images.jpeg import decode_jpeg
from vitseg.images.png import decode_png

_BATCHES_AHEAD = 3
_NOT_AN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, SampleError)


@dataclass(frozen=True)
class Batch:
    """One rank's samples of one step."""

    images: torch.Tensor
    """uint8 (B, 3, H, W), RGB in 0–255."""
    labels: torch.Tensor
    """uint8 (B, H, W), train ids, of which 255 is ignored; of image pairs the target images, uint8 (B, 3, H, W)."""
    keys: list[str]
    tokens: torch.Tensor | None = None
    """Of an encoder that does not learn, where its features are kept: float16 (B, N, E)."""

    def pictures(self, outputs: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield photo, target and a model's output, of the shape of the labels: train ids (H, W), images (H, W, 3), uint8."""
        for row in zip(self.images, self.labels, outputs, strict=True):
            photo, target, output = ((item.permute(1, 2, 0) if item.ndim == 3 else item).numpy() for item in row)
            yield photo, target, output


class Batches:
    """The batches of one split, epoch after epoch."""

    def __init__(
        self,
        shards: str,
        manifest: Manifest,
        split: str,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        flip: bool = False,
        shuffle_shards: int = 16,
        threads: int = 2,
        cache: Path | None = None,
        pin_memory: bool = False,
        features: Features | None = None,
    ) -> None:
        """Plan; nothing is read yet.

        Args:
            shards: address of the data set.
            manifest: of that data set.
            split: `train`, `val` …
            batch_size: samples a step of all ranks together, a multiple of `world_size`.
            rank: which part of each batch this process reads.
            world_size: number of ranks.
            seed: of order and flips.
            shuffle: whether each epoch has an order of its own; else samples come as stored.
            drop_last: leave out a last batch that is not full, as training must, so that all ranks take equally many
                steps. Else nothing is left out, and ranks may get unequal parts of the last batch, or none.
            flip: mirror half of the samples, left to right.
            shuffle_shards: shards that are shuffled together, and opened ahead.
            threads: that decode.
            cache: folder for downloaded shards (see `ShardCache`).
            pin_memory: decode into page-locked memory, from which a GPU takes batches without being waited for.
            features: of all these photographs, which batches then hold, too.

        Raises:
            UsageError: no such split, or a batch size that does not fit the ranks or the split.
        """
        if split not in manifest.splits:
            raise UsageError(f"{shards} has no split {split!r}: choose {', '.join(manifest.splits)}")
        check_batch(batch_size, rank, world_size)
        self._shards = manifest.splits[split].shards
        self.samples = manifest.splits[split].samples
        """Samples of the split."""
        self.pixels_per_class = manifest.splits[split].pixels_per_class
        """Labeled pixels of each class in the split."""
        if drop_last and self.samples < batch_size:
            raise UsageError(
                f"split {split!r} has {self.samples} samples, not even one batch of {batch_size}: "
                "lower data.batch_size or add data"
            )
        whole, rest = divmod(self.samples, batch_size)
        self.steps_per_epoch = whole + (1 if rest and not drop_last else 0)
        """Steps an epoch, the same on every rank."""
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._image_size = manifest.image_size
        self._label_shape = (3, *manifest.image_size) if manifest.targets == "images" else manifest.image_size
        self._seed, self._shuffle, self._flip = seed, shuffle, flip
        self._window, self._threads, self._pin = shuffle_shards, threads, pin_memory
        self._cache, self._features = ShardCache(shards, cache), features
        self._indexes: dict[int, ShardIndex] = {}

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from `start_step` on; close it to stop early.

        Raises:
            UsageError: the epoch has fewer steps.
            DataError: a shard or sample is missing or corrupt; the message names it.
        """
        if not 0 <= start_step <= self.steps_per_epoch:
            raise UsageError(
                f"step {start_step} is not in an epoch of {self.steps_per_epoch} steps: "
                "resume with the data and batch size of the run's start"
            )
        return self._run(epoch, start_step)

    def _run(self, epoch: int, start_step: int) -> Generator[Batch, None, None]:
        steps = self._steps(epoch, start_step)
        with ExitStack() as stack:
            files = ShardPrefetcher(self._open, [rows[:, 0] for rows in steps], ahead=self._window)
            stack.callback(files.close)
            decoders = ThreadPoolExecutor(self._threads, "vitseg-decode")
            stack.callback(decoders.shutdown, cancel_futures=True)  # before the files are closed
            pending: deque[tuple[Batch, list[Future[None]]]] = deque()
            submitted = 0
            for done in range(len(steps)):
                # Wait for files only if there is no other batch to yield.
                while submitted < min(len(steps), done + _BATCHES_AHEAD) and (
                    submitted == done or files.ready(submitted)
                ):
                    pending.append(self._submit(decoders, steps[submitted], files.of_step(submitted)))
                    submitted += 1
                batch, decoded = pending.popleft()
                for part in decoded:
                    part.result()
                files.release(done)
                yield batch

    def _steps(self, epoch: int, start_step: int) -> list[np.ndarray]:
        """Return int64 (B, 3) for each step with samples for this rank: shard, sample, mirrored (0, 1)."""
        counts = [shard.samples for shard in self._shards]
        shuffled = {"seed": self._seed, "epoch": epoch, "window": self._window}
        order = epoch_order(counts, **shuffled) if self._shuffle else stored_order(counts)
        flips = epoch_flips(len(order), seed=self._seed, epoch=epoch) & self._flip
        table = np.column_stack([order, flips])
        share = {"batch_size": self._batch_size, "rank": self._rank, "world_size": self._world_size}
        steps = (rank_rows(table, step, **share) for step in range(start_step, self.steps_per_epoch))
        return [rows for rows in steps if len(rows)]

    def _open(self, shard: int) -> OpenShard:
        info = self._shards[shard]
        file = self._cache.open(info)
        try:
            if shard not in self._indexes:
                self._indexes[shard] = index_shard(file, info)
            features = self._features.open(info, mirrored=self._flip) if self._features else None
        except BaseException:
            file.close()
            raise
        return OpenShard(info, file, self._indexes[shard], features)

    def _submit(
        self, pool: ThreadPoolExecutor, rows: np.ndarray, files: dict[int, OpenShard]
    ) -> tuple[Batch, list[Future[None]]]:
        pixels, ids = (
            torch.empty((len(rows), *shape), dtype=torch.uint8, pin_memory=self._pin)
            for shape in ((3, *self._image_size), self._label_shape)
        )
        tokens = None
        if self._features:
            tokens = torch.empty((len(rows), *self._features.shape), dtype=torch.float16, pin_memory=self._pin)
        images, labels = pixels.numpy(), ids.numpy()
        keys = [""] * len(rows)

        def fill(slots: range) -> None:
            for slot in slots:
                shard, sample, flip = rows[slot].tolist()
                keys[slot] = _decode(files[shard], sample, bool(flip), images[slot], labels[slot])
                opened = files[shard].features
                if tokens is not None and opened:
                    opened.read_into(tokens[slot].numpy(), sample, bool(flip))

        parts = min(self._threads, len(rows))
        futures = [pool.submit(fill, range(part, len(rows), parts)) for part in range(parts)]
        return Batch(pixels, ids, keys, tokens), futures


def _decode(shard: OpenShard, sample: int, flip: bool, image: np.ndarray, label: np.ndarray) -> str:
    """Decode a sample into `image` (3, H, W) and `label` (H, W) or (3, H, W), mirrored if `flip`; return its key."""
    key, photo, ids = shard.read(sample)
    try:
        height, width = image.shape[1:]
        pixels = _pixels(photo, "JPEG", "RGB", (height, width))
        target = _pixels(ids, "PNG", "L" if label.ndim == 2 else "RGB", (height, width))
    except _NOT_AN_IMAGE as error:
        raise DataError(f"shard {shard.info.name}: sample {key!r} can't be decoded: {error}") from error
    columns = slice(None, None, -1 if flip else 1)
    image[:] = pixels.transpose(2, 0, 1)[:, :, columns]
    label[:] = (target if label.ndim == 2 else target.transpose(2, 0, 1))[..., columns]
    return key


def _pixels(data: bytes, kind: str, mode: str, size: tuple[int, int]) -> np.ndarray:
    pixels = decode_jpeg(data, size) if kind == "JPEG" else decode_png(data, size[0] * size[1])
    if pixels is not None and pixels.shape == (size if mode == "L" else (*size, 3)):
        return pixels
    # Only the header is read here: a picture of the wrong size is refused before it takes memory.
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        if (image.height, image.width) != size or image.mode != mode:
            height, width = size
            found = f"{image.width}x{image.height} {image.mode}"
            raise ValueError(f"the {kind} is {found}, not {width}x{height} {mode}")
        return np.asarray(image)
