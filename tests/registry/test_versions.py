"""Versions: what goes in comes back as it was, or not at all."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE, UNAUTHENTICATED

from tests.registry.conftest import ARTIFACTS, CLASSES, SIZE, Register, write_bundle
from vitseg.errors import AccessError, NotFoundError, RegistryError, UsageError
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.registry import tracking, versions
from vitseg.registry.versions import alias_version, fetch, get_version, is_version_of, load, open_model, resolve


def photos(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)


def stored() -> dict[str, Path]:
    """Return the files of the logged model by name, where MLflow keeps them."""
    weights = next(ARTIFACTS.rglob("model.safetensors"))
    root = next(parent for parent in weights.parents if (parent / "MLmodel").exists())
    return {path.name: path for path in root.rglob("*") if path.is_file()}


def test_a_version_is_found_by_number_alias_and_folder(register: Register, tmp_path: Path) -> None:
    first, second = register(0), register(1)
    MlflowClient().set_registered_model_alias("vitseg", "champion", "1")
    assert (first.version, second.version) == ("1", "2")
    assert get_version("vitseg", "2") == resolve("models:/vitseg/2") == second
    assert second.description == "seed 1"
    assert second.tags["review"] == "pending"
    champion = resolve("models:/vitseg@champion")
    assert (champion.version, champion.aliases, champion.sha256) == ("1", ("champion",), first.sha256)
    local, folder = open_model(str(tmp_path / "bundle-1"))
    assert (local.version, local.sha256, folder) == ("local", second.sha256, tmp_path / "bundle-1")
    images = torch.from_numpy(photos()).permute(0, 3, 1, 2)
    for address, seed in (("models:/vitseg@champion", 0), ("models:/vitseg/2", 1)):
        wanted = load_bundle(tmp_path / f"bundle-{seed}").predict(images)
        assert torch.equal(load(address).predict(images), wanted)


def test_mlflow_itself_loads_a_version_without_any_pickle(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr("vitseg.precision.has_bfloat16", lambda device: False)
    version = register(0)
    model = mlflow.pyfunc.load_model(version.uri)
    bundle = load_bundle(tmp_path / "bundle-0")
    masks = bundle.predict(torch.from_numpy(photos()).permute(0, 3, 1, 2)).argmax(1).numpy()
    assert len(np.unique(masks)) > 1
    found = model.predict(photos())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, masks)
    assert model.predict(photos((40, 52))).shape == (2, 40, 52)
    names = set(stored())
    assert {"MLmodel", "model.safetensors", "config.json"} <= names
    assert not [name for name in names if Path(name).suffix in (".pkl", ".pth", ".pt", ".py", ".joblib")]


def test_fetch_downloads_once(register: Register, tmp_path: Path) -> None:
    version = register(0)
    with ThreadPoolExecutor(4) as pool:  # as tasks of one job do
        folders = set(pool.map(lambda _: fetch(version, tmp_path / "cache"), range(4)))
    assert folders == {tmp_path / "cache" / version.sha256}
    shutil.rmtree(ARTIFACTS)
    assert fetch(version, tmp_path / "cache") in folders
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [version.sha256]


def test_two_models_of_equal_weights_are_two(register: Register, tmp_path: Path) -> None:
    first = register(0)
    named = tuple(dataclasses.replace(label, name=f"new {label.name}", id=label.id + 100) for label in CLASSES)
    save_bundle(tmp_path / "renamed", load_bundle(tmp_path / "bundle-0").model, named)
    run_id = tracking.start_run("test", {}, {})
    second = versions.register(tmp_path / "renamed", name="vitseg", run_id=run_id, tags={}, description="")
    assert first.sha256 != second.sha256
    assert not versions.is_same(first, second)
    assert load(first.uri).classes == CLASSES  # and is in the cache from now on
    assert load(second.uri).classes == named


def test_a_version_that_an_earlier_vitseg_registered_by_its_weights_alone_is_read(
    register: Register, tmp_path: Path
) -> None:
    version, cache = register(0), tmp_path / "home/cache/models"
    identity, weights = version.sha256, load_bundle(tmp_path / "bundle-0").weights_sha256
    MlflowClient().set_model_version_tag("vitseg", "1", "sha256", weights)
    write_bundle(cache / weights, seed=7)  # what another model left there under that name
    for _ in range(2):
        found, folder = open_model("models:/vitseg/1")
        assert (found.sha256, folder) == (identity, cache / identity)
        assert load_bundle(folder).weights_sha256 == weights


def test_a_damaged_bundle_in_the_cache_is_told(register: Register, tmp_path: Path) -> None:
    version = register(0)
    folder = fetch(version, tmp_path / "cache")
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        RegistryError, match="is damaged, or can't be written: delete this folder; it is then fetched anew"
    ):
        fetch(version, tmp_path / "cache")


def change_weights(files: dict[str, Path], other: Path) -> None:
    content = bytearray(files["model.safetensors"].read_bytes())
    content[-1] ^= 1
    files["model.safetensors"].write_bytes(content)


def change_bundle(files: dict[str, Path], other: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        shutil.copy(other / name, files[name])


def change_config(files: dict[str, Path], other: Path) -> None:
    values = json.loads(files["config.json"].read_text())
    files["config.json"].write_text(json.dumps({**values, "sha256": "0" * 64}))


def change_classes(files: dict[str, Path], other: Path) -> None:
    files["config.json"].write_text(files["config.json"].read_text().replace('"road"', '"street"'))


def change_tag(files: dict[str, Path], other: Path) -> None:
    MlflowClient().set_model_version_tag("vitseg", "1", "sha256", "0" * 64)


def point_tag_elsewhere(files: dict[str, Path], other: Path) -> None:
    MlflowClient().set_model_version_tag("vitseg", "1", "sha256", str(other))


def remove_tag(files: dict[str, Path], other: Path) -> None:
    MlflowClient().delete_model_version_tag("vitseg", "1", "sha256")


def remove_weights(files: dict[str, Path], other: Path) -> None:
    files["model.safetensors"].unlink()


def test_what_was_tampered_with_is_refused(register: Register, tmp_path: Path) -> None:
    register(0)
    other, copy = write_bundle(tmp_path / "other", seed=9), tmp_path / "copy"
    shutil.copytree(ARTIFACTS, copy)
    tag = get_version("vitseg", "1").sha256
    for tamper in (
        change_weights, change_bundle, change_config, change_classes, change_tag, point_tag_elsewhere, remove_tag, remove_weights,
    ):  # fmt: skip
        tamper(stored(), other)
        with pytest.raises(RegistryError, match="models:/vitseg/1"):
            fetch(get_version("vitseg", "1"), tmp_path / "cache" / tamper.__name__)
        assert not list((tmp_path / "cache").rglob("model.safetensors")), tamper.__name__
        shutil.rmtree(ARTIFACTS)
        shutil.copytree(copy, ARTIFACTS)
        MlflowClient().set_model_version_tag("vitseg", "1", "sha256", tag)
    assert fetch(get_version("vitseg", "1"), tmp_path / "cache").name == tag


def test_what_is_not_there(register: Register, tmp_path: Path) -> None:
    assert alias_version("vitseg", "champion") is None  # not even the model
    run_id = register(0).run_id
    assert alias_version("vitseg", "champion") is None
    assert is_version_of("vitseg", "models:/vitseg/1", run_id)
    assert not is_version_of("another", "models:/vitseg/1", run_id)
    assert not is_version_of("vitseg", "models:/vitseg/403", run_id)
    assert not is_version_of(
        "vitseg", "models:/vitseg/1", "0" * 32
    )  # in another registry, or under a number used again
    for address in ("models:/vitseg/2", "models:/vitseg@champion", "models:/nobody/1", str(tmp_path / "nothing")):
        with pytest.raises(NotFoundError):
            resolve(address)
    for address in ("models:/vitseg", "models:vitseg/1", "models:/vitseg/latest", "models:/a/b/1"):
        with pytest.raises(UsageError):
            resolve(address)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MlflowException("API request failed: Max retries exceeded"), RegistryError),
        (MlflowException("page not found", error_code=ENDPOINT_NOT_FOUND), RegistryError),
        (MlflowException("sign in", error_code=UNAUTHENTICATED), AccessError),
        (MlflowException("(sqlite3.OperationalError) database is locked"), RegistryError),
    ],
)
def test_a_registry_that_can_not_answer_is_not_one_without_a_champion(
    sqlite: str, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(versions.MlflowClient, "get_registered_model", fail)
    monkeypatch.setattr(versions.MlflowClient, "get_model_version", fail)
    for ask in (
        lambda: alias_version("vitseg", "champion"),
        lambda: is_version_of("vitseg", "models:/vitseg/1", "0" * 32),
        lambda: resolve("models:/vitseg@champion"),
    ):
        with pytest.raises(kind) as caught:
            ask()
        assert type(caught.value) is kind


def test_only_an_alias_that_the_model_does_not_have_is_missing(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(0)
    MlflowClient().set_registered_model_alias("vitseg", "champion", "1")
    champion = alias_version("vitseg", "champion")
    assert champion is not None
    assert (champion.version, champion.aliases) == ("1", ("champion",))
    assert alias_version("vitseg", "challenger") is None
    assert alias_version("nobody", "champion") is None

    def refuse(*arguments: object) -> None:
        raise MlflowException("no parameter of this name", error_code=INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(versions.MlflowClient, "get_registered_model", refuse)
    with pytest.raises(RegistryError, match="no parameter"):
        alias_version("vitseg", "champion")


def test_a_version_is_found_by_what_it_was_trained_on(register: Register) -> None:
    for version in (register(0), register(1), register(2)):
        versions.set_tags(version, {"data_fingerprint": "f" if version.version < "3" else "g", "recipe": "r"})
    found = versions.find_trained("vitseg", "f", "r")
    assert found is not None
    assert found.version == "2"
    assert versions.find_trained("vitseg", "f", "somebody's experiment") is None
    with pytest.raises(UsageError, match="--shards"):
        versions.shards_of(found)
