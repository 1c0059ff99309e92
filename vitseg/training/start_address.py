"""The address of weights that a training starts from (`--init`) → what is there, read once.

hf:OWNER/NAME[@REVISION]    a Vision Transformer from the Hugging Face hub
…/model.safetensors         the same from a folder or bucket; `preprocessor_config.json` and `config.json` beside
                            it say its pixels and heads
models:/NAME/VERSION        a registered version; or a bundle's folder
runs:/ID                    what a run of `vitseg pretrain` or `vitseg train` left; or its folder
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from vitseg.config import build
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.json_input import malformed_as_data_error, parse_json
from vitseg.model import encoder_bundle
from vitseg.model.bundle import CONFIG, WEIGHTS, load_bundle
from vitseg.model.published_weights import read_published
from vitseg.origin import Origin
from vitseg.registry.names import parse_address
from vitseg.storage import Store, canonical, join, open_store, split_address
from vitseg.training import hugging_face
from vitseg.training.start import NetworkStart, PublishedStart, Start, named

MAX_BYTES = 5 * 2**30
"""Largest file of weights that is read: a ViT-g/14 in float32 has 4.6 GB."""
_MAX_JSON_BYTES = 2**20
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")


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


def read_start(address: str) -> Start:
    """Read the weights at an address.

    Raises:
        UsageError: such an encoder is not known here.
        NotFoundError: nothing is there.
        DataError: the file is too large, damaged or something else.
        StorageError, AccessError, RegistryError: it can't be reached.
    """
    address = check_address(address)
    with named(address):
        if address.startswith(hugging_face.SCHEME):
            found = hugging_face.download(address)
            start = _published(address, open_store(found.folder), commit=found.commit)
            return replace(
                start, origin=replace(start.origin, commit=found.commit, license=found.license or start.origin.license)
            )
        if address.startswith("models:"):
            from vitseg.registry import versions  # imports MLflow, which ranks don't need

            return _bundle(address, versions.open_model(address)[1])
        if address.startswith("runs:"):
            return _folder(address, _run_folder(address))
        if address.endswith(".safetensors"):
            parent, name = split_address(address)
            if open_store(parent).stat(name) is None:
                raise NotFoundError(f"--init {address} does not exist: check the address")
            return _published(address, open_store(parent), name)
        return _folder(address, address)


def _folder(address: str, place: str) -> Start:
    """Read the folder of an encoder, a bundle or a published model: `config.json` says which."""
    store = open_store(place)
    content = _read(store, CONFIG)
    if content is None:
        raise NotFoundError(
            f"--init {place}: no {CONFIG} there; name hf:OWNER/NAME, a .safetensors file, models:/NAME/VERSION, "
            "runs:/ID, or the folder of a bundle or encoder"
        )
    config = parse_json(content)
    if not isinstance(config, dict):
        raise DataError(f"{CONFIG} is not a JSON object")
    if config.get("kind") == encoder_bundle.KIND:
        weights = _read(store, encoder_bundle.WEIGHTS)
        if weights is None:
            raise NotFoundError(f"--init {place}: {encoder_bundle.WEIGHTS} is missing")
        encoder = encoder_bundle.unpack_encoder(config, weights)
        origin = build(Origin, config.get("origin", {}), "origin")
        return NetworkStart(address, origin, encoder.tensors, encoder.architecture, encoder.image_size)
    if "schema" not in config:
        return _published(address, store)
    with tempfile.TemporaryDirectory() as temporary:
        for name in (WEIGHTS, CONFIG):
            (Path(temporary) / name).write_bytes(_read(store, name) or b"")
        return _bundle(address, Path(temporary))


def _bundle(address: str, folder: Path) -> Start:
    """Read a bundle; what it started from itself, if that was published, goes with it."""
    bundle = load_bundle(folder)
    origin = build(Origin, bundle.extra.get("origin", {}), "origin")
    return NetworkStart(
        address, origin, bundle.model.state_dict(), bundle.architecture, bundle.image_size, bundle.classes,
        bundle.model.channels,
    )  # fmt: skip


def _published(address: str, store: Store, weights: str = WEIGHTS, commit: str = "") -> PublishedStart:
    """Read a published model, with what lies beside its weights."""
    state, sha256 = _tensors(address, store, weights, commit)
    config, preprocessor = (_json(_read(store, name)) for name in hugging_face.SIDECARS)
    published = read_published(state, config, preprocessor)
    origin = Origin(
        address=address, family=published.family, sha256=sha256, license=_license(store, config) or published.license
    )
    return PublishedStart(address, origin, published)


def _tensors(address: str, store: Store, weights: str, commit: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file, or of the files that an index names, and the SHA-256 of their content."""
    names, index = [weights], _read(store, hugging_face.INDEX) if store.stat(weights) is None else None
    if index is not None:
        with malformed_as_data_error():
            names = sorted(set(parse_json(index)["weight_map"].values()))
        if not all(name == PurePosixPath(name).name and name.endswith(".safetensors") for name in names):
            raise DataError(f"{hugging_face.INDEX} names other files than .safetensors beside it")
    digest, state, room = hashlib.sha256(), dict[str, Tensor](), MAX_BYTES
    for name in names:
        if index is not None and address.startswith(hugging_face.SCHEME):
            hugging_face.download_part(address, commit, name)
        data = _read(store, name, room)
        if data is None:
            raise NotFoundError(f"--init {address}: there are no weights in safetensors to start from ({name})")
        digest.update(data)
        room -= len(data)
        try:
            state |= load(data)
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"it is not a safetensors file: {error}") from error
    return state, digest.hexdigest()


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


def _read(store: Store, name: str, limit: int = 0) -> bytes | None:
    """Read a file, if it is not larger than the limit, or its kind may be; None where there is none."""
    info = store.stat(name)
    limit = limit or (MAX_BYTES if PurePosixPath(name).suffix == ".safetensors" else _MAX_JSON_BYTES)
    if info is None:
        return None
    if info.size > limit:
        raise DataError(f"{store.uri(name)} has {info.size} bytes, more than the {limit} it may have")
    return store.read(name)


def _json(content: bytes | None) -> dict[str, Any]:
    values = parse_json(content) if content else {}
    return values if isinstance(values, dict) else {}


def _license(store: Store, config: Mapping[str, Any]) -> str:
    """Return the license that `config.json` names, as timm writes it, or the first line of a LICENSE."""
    timm = config.get("pretrained_cfg")
    for values in (config, timm if isinstance(timm, dict) else {}):
        if isinstance(values.get("license"), str):
            return str(values["license"])
    for name in _LICENSES:
        if text := (_read(store, name) or b"").decode(errors="replace").strip():
            return text.splitlines()[0].strip()[:100]
    return ""
