"""What a training starts from: whose encoder it is, and what of its weights a network can take over."""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.config import RecipeLayers
from vitseg.errors import DataError, UsageError
from vitseg.labels import Label
from vitseg.model.image_model import PIXEL_MEAN, PIXEL_STD
from vitseg.model.published_weights import PixelStats, Published, encoder_from_published
from vitseg.model.segmenter import Segmenter
from vitseg.model.transfer import Head, Transfer, encoder_keys, option, transfer_weights
from vitseg.origin import Origin
from vitseg.recipe import RecipeRequest
from vitseg.training.job import SEGMENTATION

_WHOLE = ("model", "data", "augment", "loss", "optimizer", "run")


@dataclass(frozen=True, eq=False)
class Start(ABC):
    """Weights to start from."""

    address: str
    origin: Origin

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of what the fitted weights are made of: other ones make another job.

        Not that of the fitted ones, whose last bits differ by machine and number of threads.
        """

    @property
    @abstractmethod
    def recipe(self) -> tuple[str, ...]:
        """Sections of `recipes/transfer.toml` that are laid over the preset."""

    @property
    @abstractmethod
    def encoder(self) -> dict[str, Any]:
        """What they decide: values by key of `Architecture`."""

    @property
    @abstractmethod
    def free(self) -> frozenset[str]:
        """Those of these keys that a user may set otherwise."""

    @property
    def assumptions(self) -> str:
        """What nothing says and is therefore assumed, in words; "": nothing."""
        return ""

    def encoder_only(self) -> Self:
        """Return it without a decoder."""
        return self

    @abstractmethod
    def fit(self, model: Segmenter, classes: tuple[Label, ...]) -> Transfer:
        """Return the weights that a network of these classes, which may be without data, can take over."""


@dataclass(frozen=True, eq=False)
class NetworkStart(Start):
    """An encoder of ours, or a whole network (which has classes, None: only the encoder)."""

    tensors: Mapping[str, Tensor]
    architecture: Architecture
    image_size: tuple[int, int]
    classes: tuple[Label, ...] | None = None
    channels: int = 0

    @property
    def sha256(self) -> str:
        """Hash of the network, with the names of its classes."""
        names = [label.name for label in self.classes or ()]
        return _hash_of(self.tensors, [encoder_keys(self.architecture), self.image_size, names])

    @property
    def recipe(self) -> tuple[str, ...]:
        """Rates by depth, but as long and in such batches as the preset says: it may have been trained by it before.

        A published encoder that a pretraining went on with is still a published one.
        """
        return _WHOLE if self.classes is None and self.origin.family else ("model", "optimizer")

    @property
    def encoder(self) -> dict[str, Any]:
        """Everything that its encoder computes by, and what of it its decoder, if there is one, was trained on."""
        depths = {} if self.classes is None else {"depths": self.architecture.depths}
        return encoder_keys(self.architecture) | depths

    @property
    def free(self) -> frozenset[str]:
        """The initial value of layer scale is learned over, the epsilon may be any, and another decoder may have its own depths."""
        return frozenset({"layer_scale", "norm_epsilon", "depths"})

    def encoder_only(self) -> Self:
        """Return the encoder."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if name.startswith("encoder.")}
        return replace(self, tensors=tensors, classes=None, channels=0)

    def fit(self, model: Segmenter, classes: tuple[Label, ...]) -> Transfer:
        """Take the encoder, and the decoder where it is the same; what scores classes by their names."""
        head = None
        if self.classes is not None:
            last = next(name for name, module in model.named_modules() if module is model.decoder.head)
            names = [[label.name for label in labels] for labels in (self.classes, classes)]
            head = Head((f"{last}.weight", f"{last}.bias"), (names[0], names[1]), (self.channels, model.channels))
        source, target = (self.architecture, self.image_size), (model.architecture, model.image_size)
        return transfer_weights(self.tensors, source, target, model.state_dict(), head)


@dataclass(frozen=True, eq=False)
class PublishedStart(Start):
    """A published Vision Transformer."""

    published: Published

    @property
    def sha256(self) -> str:
        """Hash of the tensors, and of what the files beside them say."""
        found = self.published
        return _hash_of(found.tensors, [found.architecture, asdict(found.pixels), found.image_size, found.antialias])

    @property
    def recipe(self) -> tuple[str, ...]:
        """All of it."""
        return _WHOLE

    @property
    def encoder(self) -> dict[str, Any]:
        """What its file, and those beside it, say."""
        return self.published.architecture

    @property
    def free(self) -> frozenset[str]:
        """The patch size, for the kernel can be resized, and what nothing says."""
        return (self.published.assumed & self.encoder.keys()) - {"pixels"} | {"patch_size"}

    @property
    def assumptions(self) -> str:
        """Name the keys, and the numbers of the pixels."""
        stats = self.published.pixels
        found = [f"model.{key}={option(self.encoder[key])}" for key in sorted(self.free - {"patch_size"})]
        if "pixels" in self.published.assumed:
            found.append(
                f"pixels of mean {stats.mean[0]:g} and std {stats.std[0]:g} (there is no preprocessor_config.json)"
            )
        return ", ".join(found)

    def fit(self, model: Segmenter, classes: tuple[Label, ...]) -> Transfer:
        """Take the encoder."""
        ours, stats = PixelStats(PIXEL_MEAN, PIXEL_STD), self.published.pixels
        tensors = encoder_from_published(self.published, model.architecture, model.grid, ours)
        words = (
            f"the encoder of {self.published.family}, for pixels of mean {stats.mean[0]:g} and std {stats.std[0]:g} …"
        )
        return Transfer({f"encoder.{name}": value for name, value in tensors.items()}, words)


def started_request(
    layers: RecipeLayers, start: Start | None, task: str = SEGMENTATION, pairs: bool = False
) -> RecipeRequest:
    """Return the request of a training that starts there (None: from scratch), on `pairs` of images or on labels.

    A pretraining goes on as long and in such batches as its preset says, and its decoder gets the last tokens.

    Raises:
        UsageError: see `RecipeLayers.request`.
    """
    if start is None:
        return layers.request()
    with named(start.address):
        sections = start.recipe if task == SEGMENTATION else ("optimizer",)
        if pairs:  # they have no classes, and what changes a photograph's colors would make its target wrong
            sections = tuple(name for name in sections if name not in ("augment", "loss"))
        return layers.request(start.encoder, start.free, sections)


@contextlib.contextmanager
def named(address: str) -> Iterator[None]:
    """Begin what is wrong with a start with its address."""
    try:
        yield
    except (DataError, UsageError) as error:
        raise type(error)(f"--init {address}: {error}") from error


def _hash_of(tensors: Mapping[str, Tensor], values: Any) -> str:
    """Return the SHA-256 of tensors by name and of plain values."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
