"""Weights that a training starts from (`--init`): read once, fitted to the recipe, kept with the job.

    hf:OWNER/NAME[@REVISION]    a plain ViT from the Hugging Face hub
    …/model.safetensors         the same from a folder or bucket; `preprocessor_config.json` and `config.json` beside
                                it say its pixels and heads
    models:/NAME/VERSION        a registered version; or a bundle's folder
    runs:/ID                    what a run of `vitseg pretrain` or `vitseg train` left; or its folder

The fitted weights are `init.safetensors` in the job's folder, by the network's own names; every rank reads that file.
Its hash is part of the folder's name: the same command finds its job again as long as the address holds the same weights.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.json_input import parse_json
from vitseg.labels import Label, logit_count
from vitseg.model import encoder_bundle
from vitseg.model.bundle import CONFIG, WEIGHTS, load_bundle
from vitseg.model.image_model import PIXEL_MEAN, PIXEL_STD
from vitseg.model.patches import patch_grid
from vitseg.model.published_weights import PixelStats, encoder_from_published, read_published
from vitseg.model.segmenter import Segmenter
from vitseg.model.transfer import Head, Transfer, transfer_weights
from vitseg.registry.names import parse_address
from vitseg.storage import Store, canonical, join, open_store, split_address
from vitseg.training import hugging_face

FILE = "init.safetensors"
MAX_BYTES = 4 * 2**30
"""Largest file of weights that is read: a ViT-H/14 in float32 has 2.5 GB."""
_MAX_JSON_BYTES = 2**20
_PREPROCESSOR = "preprocessor_config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")


@dataclass(frozen=True)
class Initial:
    """Weights to start from: the content of `init.safetensors`, where they came from, and what was taken."""

    address: str
    data: bytes
    taken: str

    @property
    def sha256(self) -> str:
        """Hash of the content: other weights make another job."""
        return hashlib.sha256(self.data).hexdigest()


def check_address(address: str) -> str:
    """Return the one form of an `--init` that means the same everywhere, before anything starts.

    Raises:
        UsageError: no such kind of address, a format that can run code, or a package is missing.
    """
    if address.startswith(hugging_face.SCHEME):
        hugging_face.check_hub_address(address)
    elif address.endswith(_PICKLES):
        raise UsageError(f"{address}: such a file can run code and is not read; save the weights as .safetensors")
    elif address.startswith("models:"):
        parse_address(address)
    if address.startswith((hugging_face.SCHEME, "models:", "runs:")):
        return address
    return canonical(address)


def fit_initial(address: str, arch: Architecture, image_size: tuple[int, int], classes: tuple[Label, ...]) -> Initial:
    """Read weights and fit them to the network of a recipe, for images (H, W) and these classes.

    What scores classes is taken by their names.

    Raises:
        UsageError: the weights are of another architecture; the message names the recipe's keys.
        NotFoundError: nothing is there.
        DataError: the file is too large, damaged or something else.
        StorageError, AccessError, RegistryError: it can't be reached.
    """
    address = check_address(address)
    with torch.device("meta"):
        model = Segmenter(arch, image_size, logit_count(classes))
    wanted = model.state_dict()
    try:
        taken = _Target(model, classes, wanted).read(address)
    except (DataError, UsageError) as error:
        raise type(error)(f"--init {address}: {error}") from error
    tensors = {name: value.detach().contiguous() for name, value in taken.tensors.items()}
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(f"--init {address}: {name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")
    return Initial(address, save(tensors), taken.taken)


def load_initial(model: torch.nn.Module, folder: str, sha256: str) -> None:
    """Put a job's `init.safetensors` into its network; what it does not hold stays as it is.

    Raises:
        DataError: the file is missing or not the one the job was planned with.
    """
    try:
        data = open_store(folder).read(FILE)
    except NotFoundError as error:
        raise DataError(f"{folder} lost its {FILE}: start `vitseg train --no-resume` with the same --init") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{folder}/{FILE} is damaged: start `vitseg train --no-resume` with the same --init")
    surplus = model.load_state_dict(load(data), strict=False).unexpected_keys
    assert not surplus, f"{FILE} holds {surplus}"


@dataclass(frozen=True)
class _Target:
    """The network to initialize, without data, its classes, and its state dict."""

    model: Segmenter
    classes: tuple[Label, ...]
    wanted: Mapping[str, Tensor]

    @property
    def arch(self) -> Architecture:
        return self.model.architecture

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.image_size

    def read(self, address: str) -> Transfer:
        """Read the weights at an address."""
        if address.startswith(hugging_face.SCHEME):
            return self._published(open_store(hugging_face.download(address)))
        if address.startswith("models:"):
            from vitseg.registry import versions  # imports MLflow, which ranks don't need

            return self._bundle(versions.open_model(address)[1])
        if address.startswith("runs:"):
            return self._folder(_run_folder(address))
        if address.endswith(".safetensors"):
            parent, name = split_address(address)
            store = open_store(parent)
            if store.stat(name) is None:
                raise NotFoundError(f"--init {address} does not exist: check the address")
            return self._published(store, name)
        return self._folder(address)

    def _folder(self, address: str) -> Transfer:
        """Read the folder of an encoder, a bundle or a published model: `config.json` says which."""
        store = open_store(address)
        content = _read(store, CONFIG)
        if content is None:
            raise NotFoundError(
                f"--init {address}: no {CONFIG} there; name hf:OWNER/NAME, a .safetensors file, models:/NAME/VERSION, "
                "runs:/ID, or the folder of a bundle or encoder"
            )
        config = parse_json(content)
        if not isinstance(config, dict):
            raise DataError(f"{CONFIG} is not a JSON object")
        if config.get("kind") == encoder_bundle.KIND:
            weights = _read(store, encoder_bundle.WEIGHTS)
            if weights is None:
                raise NotFoundError(f"--init {address}: {encoder_bundle.WEIGHTS} is missing")
            encoder = encoder_bundle.unpack_encoder(config, weights)
            return self._transfer(encoder.tensors, (encoder.architecture, encoder.image_size))
        if "schema" not in config:
            return self._published(store)
        with tempfile.TemporaryDirectory() as temporary:
            for name in (WEIGHTS, CONFIG):
                (Path(temporary) / name).write_bytes(_read(store, name) or b"")
            return self._bundle(Path(temporary))

    def _bundle(self, folder: Path) -> Transfer:
        bundle = load_bundle(folder)
        last = next(name for name, module in self.model.named_modules() if module is self.model.decoder.head)
        names = [[label.name for label in labels] for labels in (bundle.classes, self.classes)]
        head = Head(
            (f"{last}.weight", f"{last}.bias"), (names[0], names[1]), (bundle.model.channels, self.model.channels)
        )
        return self._transfer(bundle.model.state_dict(), (bundle.architecture, bundle.image_size), head)

    def _transfer(
        self, weights: Mapping[str, Tensor], source: tuple[Architecture, tuple[int, int]], head: Head | None = None
    ) -> Transfer:
        return transfer_weights(weights, source, (self.arch, self.image_size), self.wanted, head)

    def _published(self, store: Store, weights: str = WEIGHTS) -> Transfer:
        """Fit a published ViT, with what lies beside its weights."""
        data = _read(store, weights)
        if data is None:
            raise NotFoundError(f"there are no weights in safetensors to start from ({WEIGHTS})")
        try:
            state = load(data)
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"it is not a safetensors file: {error}") from error
        config, preprocessor = (_json(_read(store, name)) for name in (CONFIG, _PREPROCESSOR))
        published = read_published(state, config, preprocessor)
        grid = patch_grid(self.image_size, self.arch.patch_size)
        tensors = encoder_from_published(published, self.arch, grid, PixelStats(PIXEL_MEAN, PIXEL_STD))
        pixels, epsilon = published.pixels, published.architecture["norm_epsilon"]
        words = f"the encoder of {published.family}, for pixels of mean {pixels.mean[0]:g} and std {pixels.std[0]:g} …"
        if "pixels" in published.assumed:
            words += f" (ViT's own: there is no {_PREPROCESSOR} beside the weights)"
        if "norm_epsilon" not in published.assumed and epsilon != self.arch.norm_epsilon:
            words += f"; its LayerNorms have epsilon {epsilon}: --set model.norm_epsilon={epsilon}"
        return Transfer({f"encoder.{name}": value for name, value in tensors.items()}, words)


def _run_folder(address: str) -> str:
    """Return the folder of the encoder or bundle that a run's job has written."""
    from vitseg.registry import tracking  # imports MLflow, which ranks don't need

    job = tracking.run_tags(address.removeprefix("runs:").strip("/")).get("vitseg.job")
    if not job:
        raise NotFoundError(f"--init {address}: that run is no training of vitseg")
    for name in ("encoder", "bundle"):
        if open_store(job).stat(f"{name}/{CONFIG}"):
            return join(job, name)
    raise NotFoundError(f"--init {address}: its job {job} is not finished, or was removed")


def _read(store: Store, name: str) -> bytes | None:
    """Read a file, if it is not larger than its kind may be; None where there is none."""
    info = store.stat(name)
    limit = _MAX_JSON_BYTES if PurePosixPath(name).suffix == ".json" else MAX_BYTES
    if info is None:
        return None
    if info.size > limit:
        raise DataError(f"{store.uri(name)} has {info.size} bytes, more than the {limit} it may have")
    return store.read(name)


def _json(content: bytes | None) -> dict[str, Any]:
    values = parse_json(content) if content else {}
    return values if isinstance(values, dict) else {}
