"""One pass of a model over labeled batches: confusion matrix, seams, loss and color error as plain sums.

Sums of ranks add up to exactly what one process counts, so validation may be split over any number of them.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from vitseg import dist
from vitseg.architecture import Architecture
from vitseg.class_change import class_change, match_names
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.device_copy import to_device
from vitseg.errors import UnrelatedClassesError, UsageError
from vitseg.images.resize import resize_planes
from vitseg.labels import IGNORE_INDEX, Label, palette
from vitseg.losses import loss_count, segmentation_loss, target_colors, valid_mask
from vitseg.metrics.result import Evaluation
from vitseg.metrics.scores import confusion_of, count_pairs, strongest_channel_agrees
from vitseg.metrics.seams import seam_counts
from vitseg.model.bundle import Bundle
from vitseg.model.segmenter import class_scores, scaled_to
from vitseg.precision import Precision, autocast, choose, time_forward
from vitseg.recipe import LossRecipe

_NAMED = 10  # classes in a message
_TIMED = 4  # batches, each run once more to see how long it takes


@dataclass(frozen=True)
class Criterion:
    """How a model's outputs compare with labels: losses, predictions and colors."""

    target: str
    classes: int
    """Their number; 0 for pairs of images."""
    palette: torch.Tensor
    """Colors of train ids, uint8 (256, 3), on the device that computes."""
    recipe: LossRecipe = field(default_factory=LossRecipe)
    weights: torch.Tensor | None = None
    """Of the classes in the loss, float32 (K,); None: 1 each."""

    def loss(self, output: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss summed over valid pixels, and what divides it."""
        return segmentation_loss(output, labels, self.palette, self.target, self.recipe, self.weights)

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """Return what divides the loss of these labels: their valid pixels, or the sum of their weights."""
        return loss_count(labels, self.weights)

    def teacher_targets(self, labels: torch.Tensor, channels: int) -> torch.Tensor:
        """Return what teacher forcing feeds to a model of so many channels, zeros where a pixel does not count.

        One-hot classes (B, channels, H, W), in a binary model of the first class alone, or colors (B, 3, H, W).
        """
        if self.target == "rgb":
            return self.colors_of(labels) * valid_mask(labels)[:, None]
        return (labels[:, None] == torch.arange(channels, device=labels.device)[:, None, None]).float()

    def predict(self, output: torch.Tensor) -> torch.Tensor:
        """Return train ids int64 (B, H, W) for a model's output; without classes the image (B, 3, H, W) itself."""
        if not self.classes:
            return output
        return class_scores(output.float(), self.palette[: self.classes], self.target).argmax(1)

    def colors_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Return color images (B, 3, H, W) in 0–1 for train ids (B, H, W), 255 as any color, or for images."""
        return target_colors(labels, self.palette)


def criterion_for(
    target: str,
    classes: tuple[Label, ...],
    device: torch.device,
    recipe: LossRecipe | None = None,
    weights: torch.Tensor | None = None,
) -> Criterion:
    """Return the criterion of a model's target on a device; without a recipe its plain loss."""
    weights = None if weights is None else weights.to(device)
    colors = torch.from_numpy(palette(classes)).to(device)
    return Criterion(target, len(classes), colors, recipe or LossRecipe(), weights)


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    criterion: Criterion,
    progress: Callable[[int], None] | None = None,
    patches: Sequence[int] = (),
    keep_images: bool = False,
    foreign: bool = False,
    precision: str = "float32",
    image_size: tuple[int, int] | None = None,
) -> Evaluation:
    """Run a model over this rank's batches and add up over all ranks.

    Outputs of another size than the labels are scaled to it.

    Args:
        model: gives class scores (B, K, H, W) or a color image (B, 3, H, W); put into evaluation mode meanwhile.
        batches: images uint8 (B, 3, H, W) with labels uint8 (B, H, W), or target images uint8 (B, 3, H, W).
        criterion: how its outputs compare with the labels.
        progress: called with the number of images after each batch.
        patches: sides of patches, pixels, whose seams are counted.
        keep_images: keep the confusion matrix of each image, too.
        foreign: the label K of K classes stands for classes that the model does not know: it counts in the confusion matrix,
            then (K + 1, K + 1), alone.
        precision: what the model computes in, as `vitseg.precision` names it; all else is at least float32.
        image_size: (H, W) that images are resized to; None: as they are.
    """
    device = criterion.palette.device
    count = criterion.classes + foreign
    pairs = torch.zeros(count + 2, count + 1, dtype=torch.int64, device=device)
    seams = torch.zeros(2, len(patches), 2, 2, 2, dtype=torch.int64, device=device)  # of predictions, of labels
    # loss, what divides it, valid pixels, two errors, strongest channels that agree, samples
    sums = torch.zeros(7, dtype=torch.float64, device=device)
    kept: list[torch.Tensor] = []
    fastest = math.nan
    was_training = model.training
    model.eval()
    for number, batch in enumerate(batches):
        images, labels = to_device(batch.images, device), to_device(batch.labels, device)
        images = resize_planes(images, image_size or (images.shape[-2], images.shape[-1]))
        with autocast(precision, device):
            known = {} if batch.tokens is None else {"tokens": to_device(batch.tokens, device)}
            output = model(images, **known)
            if keep_images and number < _TIMED:
                fastest = max(_images_per_second(model, images), fastest)
        output = scaled_to(output, labels)
        if criterion.classes:
            predictions = criterion.predict(output)
            each = [count_pairs(*pair, count) for pair in zip(labels, predictions, strict=True)] if keep_images else []
            pairs += count_pairs(labels, predictions, count)
            kept += torch.stack(each)[:, :count, :count].cpu() if each else []
            for i, patch in enumerate(patches):
                seams[:, i] += torch.stack([seam_counts(ids, patch) for ids in (predictions, labels)])
        if (
            criterion.classes
        ):  # no loss for classes that the model does not know, nor for ids that are refused at the end
            labels = labels.masked_fill(labels >= criterion.classes, IGNORE_INDEX)
        loss, divisor = criterion.loss(output, labels)
        colors = output.float() if criterion.target == "rgb" else criterion.colors_of(predictions)
        targets, valid = criterion.colors_of(labels), valid_mask(labels)
        differences = colors - targets
        errors = [each.mean(1).where(valid, 0).sum() for each in (differences.abs(), differences.square())]
        channels = (strongest_channel_agrees(colors, targets) & valid).sum()
        values = [loss, divisor, valid.sum(), *errors, channels, torch.full_like(channels, len(images))]
        sums += torch.stack([value.double() for value in values])
        if progress:
            progress(len(images))
    model.train(was_training)
    if criterion.classes:
        dist.sum_over_ranks(pairs)
        dist.sum_over_ranks(seams)
    of_predictions, of_labels = (dict(zip(patches, side, strict=True)) for side in seams.cpu())
    loss_sum, count_sum, pixels, absolute, squared, channels_sum, samples = dist.sum_over_ranks(sums).tolist()
    pixels = max(1, pixels)
    return Evaluation(
        confusion_of(pairs.cpu()),
        loss_sum / (count_sum or 1),
        absolute / pixels,
        channels_sum / pixels,
        int(samples),
        seams=of_predictions,
        target_seams=of_labels,
        mean_squared_error=squared / pixels,
        images=torch.stack(kept) if kept else None,
        images_per_second=fastest,
    )


def _images_per_second(model: nn.Module, images: torch.Tensor) -> float:
    """Time a batch that the model has seen already, so that nothing is done for the first time."""
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return len(images) / (time.perf_counter() - start)


def patch_sides(arch: Architecture) -> tuple[int, ...]:
    """Return the sides of the patches, pixels, whose borders may show in what a network predicts, largest first."""
    fine = arch.fine_patch if arch.decoder in ("attention", "overlap") else 0
    return tuple(sorted({arch.patch_size, fine or arch.patch_size}, reverse=True))


def evaluate_bundle(
    bundle: Bundle,
    shards: str,
    split: str = "val",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
    keep_images: bool = False,
    manifest: Manifest | None = None,
    precision: str = "float32",
) -> Evaluation:
    """Evaluate a bundle on a split of a data set, whose manifest may be known; the loss is that of no recipe.

    Classes are matched by name, and those that both have are measured, on all labeled pixels. The model sees photographs at
    its own image size; its scores are scaled to that of the labels.

    Raises:
        UsageError: the split does not exist, or it has no labels.
        UnrelatedClassesError: model and data share no class, or are more classes than labels can tell apart.
    """
    manifest = manifest or read_manifest(shards)
    if split not in manifest.splits:
        raise UsageError(f"{shards} has no split {split!r}: choose {', '.join(manifest.splits)}")
    if manifest.targets == "none":
        raise UsageError(f"{shards} holds photographs without labels: there is nothing to measure a model by")
    model_names, names = ([label.name for label in labels] for labels in (bundle.classes, manifest.classes))
    change = class_change(model_names, names)
    if not change.shared and (names or model_names):
        raise UnrelatedClassesError(
            f"the model knows {_listed(model_names)}; {shards} has {_listed(names)}: they share no class to measure"
        )
    if change.added and len(model_names) >= IGNORE_INDEX:
        raise UnrelatedClassesError(
            f"the model knows {len(model_names)} classes, and {_listed(change.added)} would be one more than can be counted"
        )
    same = model_names == names
    loader = Batches(shards, manifest, split, batch_size=batch_size, shuffle=False, drop_last=False)
    batches = (_as_model_sees(batch, bundle, None if same else names) for batch in loader.epoch(0))
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, loader.samples)

    device = _device()
    criterion = criterion_for(bundle.architecture.target, bundle.classes, device)
    own_size = tuple(manifest.image_size) == tuple(bundle.image_size)
    try:
        sides = patch_sides(bundle.architecture) if own_size else ()  # scaled, patches have no side in whole pixels
        found = evaluate_batches(
            bundle.model.to(device), batches, criterion, count, sides, keep_images=keep_images, foreign=not same,
            precision=precision,
        )  # fmt: skip
    finally:
        bundle.model.to("cpu")
    found = replace(found, classes=tuple(model_names), only_in_data=change.added, only_in_model=change.removed)
    return found if same else found.over(change.shared)


def evaluation_precision(bundle: Bundle) -> Precision:
    """Return what `evaluate_bundle` should compute in on this machine; on processors it is measured."""
    return choose(_device(), lambda: time_forward(bundle.model, bundle.image_size))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _as_model_sees(batch: Batch, bundle: Bundle, names: Sequence[str] | None) -> Batch:
    """Return photographs at the model's size, and labels of the classes `names` in the model's train ids (None: they are).

    The model's K-th class, one more than it has, are those that it does not know.
    """
    images, labels = resize_planes(batch.images, bundle.image_size), batch.labels
    if names is not None:
        places = match_names(names, [label.name for label in bundle.classes])
        table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
        table[: len(names)] = torch.tensor([len(bundle.classes) if place is None else place for place in places])
        labels = table[labels.long()]
    return replace(batch, images=images, labels=labels)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "") if names else "no classes"
