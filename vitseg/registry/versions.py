"""Registered versions: a bundle goes in, and the same bytes come back, checked against the hash in the version's tags.

The tag `sha256` is `Bundle.sha256`, the identity of the whole bundle. Earlier versions of vitseg wrote the hash of the weights
alone, which two models with other classes may share. Such a version is still read, but no cached bundle stands for it.

A version's address is `models:/NAME/VERSION` or `models:/NAME@alias`.
"""

import datetime
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from vitseg.errors import DataError, NotFoundError, RegistryError, UsageError
from vitseg.home import home
from vitseg.model.bundle import Bundle, load_bundle, read_identity
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.names import check_name, check_version, parse_address

_DELETE = "delete this folder; it is then fetched anew"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Version:
    """One version of a registered model, or a bundle folder, whose version is `local`."""

    name: str
    version: str
    sha256: str
    """As in its tag; of what `open_model` returns, always `Bundle.sha256`."""
    run_id: str = ""
    description: str = ""
    created: int = 0
    """Milliseconds since 1970."""
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The address `models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.version}"


def register(bundle_folder: Path, *, name: str, run_id: str, tags: Mapping[str, str], description: str) -> Version:
    """Log a bundle to its run as an MLflow model, and register it as a new version of `name`.

    A version that the same run registered before a crash is returned as it is.
    """
    bundle = load_bundle(bundle_folder)
    signature = ModelSignature(  # of images of any size: pyfunc resizes them, and the masks back
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1) if bundle.classes else (-1, -1, -1, 3))]),
    )
    with mlflow_request("registering the model"):
        client = MlflowClient()
        for known in client.search_model_versions(f"run_id = '{run_id}'"):
            if known.name == name and known.tags.get("sha256") in _hashes(bundle):
                return get_version(name, str(known.version))
    with mlflow_request("registering the model"), mlflow.start_run(run_id=run_id):
        model = mlflow.pyfunc.log_model(
            name="model",
            loader_module="vitseg.inference.pyfunc",
            data_path=str(bundle_folder),
            signature=signature,
            model_type="semantic-segmentation" if bundle.classes else "image-to-image",
            pip_requirements=["vitseg", "torch", "safetensors"],
        )
        ensure_model(client, name)
        registered = client.create_model_version(
            name, model.model_uri, run_id, tags={**tags, "sha256": bundle.sha256}, description=description,
            model_id=model.model_id,
        )  # fmt: skip
    return get_version(name, str(registered.version))


def ensure_model(client: MlflowClient, name: str) -> None:
    """Create a registered model, unless it exists."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def get_version(name: str, version: str) -> Version:
    """Read one version.

    Raises:
        NotFoundError: there is none.
        UsageError: the version is no number.
    """
    check_version(version, name)
    try:
        with mlflow_request(f"reading {name} version {version}"):
            found = MlflowClient().get_model_version(name, version)
    except NotFoundError as error:
        raise NotFoundError(f"models:/{name}/{version} does not exist: see `vitseg registry list`") from error
    return _version(found, found.aliases)


def _version(found: ModelVersion, aliases: Iterable[str]) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        sha256=found.tags.get("sha256", ""),
        run_id=found.run_id or "",
        description=found.description or "",
        created=int(found.creation_timestamp or 0),
        aliases=tuple(aliases),
        tags=dict(found.tags),
    )


def list_versions(name: str) -> list[Version]:
    """Return all versions of a model, newest first."""
    with mlflow_request(f"listing versions of {name}"):
        client = MlflowClient()
        found = client.search_model_versions(f'name = "{check_name(name)}"')
        aliases = client.get_registered_model(name).aliases if found else {}  # a search returns none
    named = [(one, [alias for alias, number in aliases.items() if str(number) == str(one.version)]) for one in found]
    versions = [_version(one, sorted(own)) for one, own in named]
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def find_trained(name: str, fingerprint: str, recipe: str) -> Version | None:
    """Return the newest version that was trained on this data by this recipe (its digest), or None."""
    wanted = {"data_fingerprint": fingerprint, "recipe": recipe}
    return next((version for version in list_versions(name) if wanted.items() <= version.tags.items()), None)


def shards_of(version: Version) -> str:
    """Return the address of the shards that a version was trained on.

    Raises:
        UsageError: the version has no such tag.
    """
    shards = version.tags.get("shards")
    if not shards:
        raise UsageError(f"{version.uri} has no tag with the data that it was trained on: name --shards")
    return shards


def is_same(one: Version, other: Version) -> bool:
    """Return whether two versions are the same model: one and the same version, or copies in two registered models."""
    return (one.run_id, one.sha256) == (other.run_id, other.sha256)


def is_version_of(name: str, uri: str, run_id: str) -> bool:
    """Return whether an address is a version of this model that this run registered, and is still in the registry.

    Another registry may have a version of that number, too; and numbers begin anew where a model was deleted and created.
    """
    try:
        found = resolve(uri)
        return (found.name, found.run_id) == (name, run_id)
    except NotFoundError:
        return False


def alias_version(name: str, alias: str) -> Version | None:
    """Return the version that an alias points to, or None where the registry has no such model or alias.

    Every other failure is an error: a registry that can't answer must never look like one without a champion.
    """
    try:
        with mlflow_request(f"reading {name}@{alias}"):
            number = MlflowClient().get_registered_model(name).aliases.get(alias)
    except NotFoundError:
        return None
    return get_version(name, str(number)) if number else None


def resolve(model: str) -> Version:
    """Return the version of an address: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder.

    Raises:
        UsageError: the address has none of these forms, or a name that can't exist.
        NotFoundError: there is no such version or folder.
    """
    if not model.startswith("models:"):
        folder = Path(model)
        if not folder.is_dir():
            raise NotFoundError(
                f"model {model}: no such folder; name models:/NAME@alias, models:/NAME/VERSION or a bundle folder"
            )
        return Version(folder.resolve().name, "local", load_bundle(folder).sha256)
    address = parse_address(model)
    if address.version:
        return get_version(address.name, address.version)
    found = alias_version(address.name, address.alias)
    if found is None:
        raise NotFoundError(f"{model}: no such alias; `vitseg registry list` shows all versions")
    return found


def fetch(version: Version, cache: Path | None = None) -> Path:
    """Return a local folder with the version's bundle, downloaded once and checked against its hash.

    The folder's name is the bundle's identity.

    Raises:
        RegistryError: the download is not the bundle that was registered.
    """
    if not _SHA256.fullmatch(version.sha256):  # it becomes the name of a folder
        raise RegistryError(f"{version.uri} has no sha256 among its tags: it was not registered by vitseg")
    root = cache or home() / "cache" / "models"
    folder = root / version.sha256
    if read_identity(folder) == version.sha256:
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        with mlflow_request(f"downloading {version.uri}"):
            files = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=temporary))
        weights = next(files.rglob("model.safetensors"), None)
        if weights is None:
            raise RegistryError(f"{version.uri} holds no bundle: it was not registered by vitseg")
        try:
            bundle = load_bundle(weights.parent)
        except (DataError, NotFoundError) as error:
            raise RegistryError(f"{version.uri} holds a bundle that can't be used: {error}") from error
        if version.sha256 not in _hashes(bundle):
            raise RegistryError(f"{version.uri}: the bundle doesn't match the sha256 of the version: don't use it")
        ready = Path(temporary) / "ready"
        shutil.copytree(weights.parent, ready)
        folder = root / bundle.sha256
        try:
            ready.rename(folder)
        except OSError as error:  # another process was first, with the same bytes
            if read_identity(folder) != bundle.sha256:
                raise RegistryError(f"{folder} is damaged, or can't be written: {_DELETE}") from error
    return folder


def fetch_checked(version: Version) -> None:
    """Do what `fetch` does, and read all weights: those that lie in the cache, too."""
    folder = fetch(version)
    try:
        load_bundle(folder)
    except (DataError, NotFoundError) as error:
        raise RegistryError(f"{folder} is damaged ({error}): {_DELETE}") from error


def _hashes(bundle: Bundle) -> tuple[str, str]:
    """Return what the tag `sha256` of a bundle's version may be: the second one in those of earlier versions of vitseg."""
    return bundle.sha256, bundle.weights_sha256


def open_model(model: str) -> tuple[Version, Path]:
    """Resolve an address once, and return its version with a local bundle folder."""
    version = resolve(model)
    if version.version == "local":
        return version, Path(model)
    folder = fetch(version)
    return replace(version, sha256=folder.name), folder


def load(model: str) -> Bundle:
    """Return the bundle of an address, ready to predict."""
    return load_bundle(open_model(model)[1])


def set_tags(version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version, in order."""
    with mlflow_request(f"tagging {version.uri}"):
        for key, value in tags.items():
            MlflowClient().set_model_version_tag(version.name, version.version, key, value)


def timestamp() -> str:
    """Return the time of now for a tag: ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
