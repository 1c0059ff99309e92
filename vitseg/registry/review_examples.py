"""The images that a reviewer should look at: those a version does worst on, and those it does worse on than the champion."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.masks import colorize
from vitseg.model.bundle import Bundle
from vitseg.pictures.contact_sheet import contact_sheet

_WIDTH = 184  # of a picture: four side by side fit the registry's page


def select_examples(ours: Tensor, theirs: Tensor | None, count: int = 3) -> dict[int, str]:
    """Choose images by the share of their pixels that is right; return why, by the image's number.

    Args:
        ours: confusion matrices of the version, one an image, int64 (N, K, K).
        theirs: of the champion on the same images; None: there is none.
        count: images of each kind.
    """
    right = _right(ours)
    chosen = {index: f"{right[index]:.0%} right" for index in right.argsort()[:count].tolist()}
    if theirs is not None:
        before = _right(theirs)
        lost = right - before
        for index in lost.argsort()[:count].tolist():
            if lost[index] < 0:
                chosen[index] = f"{right[index]:.0%} right, was {before[index]:.0%}"
    return chosen


def draw_examples(shards: str, split: str, chosen: dict[int, str], models: Sequence[tuple[str, Bundle]]) -> Image.Image:
    """Draw a row an image: photo, truth, and what each of the named models says."""
    batches = Batches(shards, read_manifest(shards), split, batch_size=1, shuffle=False, drop_last=False)
    cells: dict[int, list[tuple[str, Image.Image]]] = {}
    for index, batch in enumerate(batches.epoch(0)):
        if index in chosen:
            colors = models[0][1].palette
            photo = Image.fromarray(batch.images[0].permute(1, 2, 0).numpy())
            cells[index] = [
                (batch.keys[0], photo),
                ("truth", Image.fromarray(colorize(batch.labels[0].numpy(), colors))),
            ]
            for name, bundle in models:
                ids = bundle.segment(batch.images).cpu().numpy()[0]
                note = f"{name}: {chosen[index]}" if bundle is models[-1][1] else name
                cells[index].append((note, Image.fromarray(colorize(ids, colors))))
    ordered = [cell for index in chosen for cell in cells[index]]
    return contact_sheet(ordered, columns=2 + len(models), width=_WIDTH)


def _right(matrices: Tensor) -> Tensor:
    counts = matrices.double()
    return counts.diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2)).clamp(min=1)
