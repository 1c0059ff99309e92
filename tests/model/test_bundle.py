import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vitseg.architecture import Architecture
from vitseg.errors import DataError, NotFoundError
from vitseg.labels import Label, train_classes
from vitseg.model.bundle import FILES, load_bundle, read_identity, save_bundle
from vitseg.model.convolutional_decoder import ConvolutionalArchitecture
from vitseg.model.segmenter import build_model

CLASSES = train_classes()[:4]
SIZE = (16, 24)
OLD_KEYS = {"normalisation": "normalization"}


def architecture(target: str = "classes") -> Architecture:
    return Architecture(
        patch_size=8, encoder_projection=24, blocks=1, heads=2, head_width=8, mlp_units=(32, 32),
        features_per_patch=8, decoder_projection=8, decoder_mlp_units=(16,), target=target,
    )  # fmt: skip


def photos() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, *SIZE), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", build_model(architecture(), SIZE, 4, seed=0), CLASSES)
    return tmp_path / "bundle"


def edit(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def edit_architecture(folder: Path, **values: object) -> None:
    edit(folder, architecture={**json.loads((folder / "config.json").read_text())["architecture"], **values})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_what_comes_back_predicts_the_same(tmp_path):
    model = build_model(architecture(), SIZE, 4, seed=3).eval()
    sha256 = save_bundle(tmp_path / "a/b", model, CLASSES, extra={"fingerprint": "abc", "step": 7})
    bundle = load_bundle(tmp_path / "a/b")
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["config.json", "model.safetensors"]
    hashes = [hashlib.sha256((tmp_path / "a/b" / name).read_bytes()).hexdigest() for name in FILES]
    assert [bundle.weights_sha256, bundle.sha256] == hashes  # anybody can compute them
    assert sha256 == bundle.sha256 == read_identity(tmp_path / "a/b")
    assert (bundle.architecture, bundle.classes, bundle.image_size) == (model.architecture, CLASSES, SIZE)
    assert bundle.extra == {"fingerprint": "abc", "step": 7}
    assert bundle.palette[1].tolist() == [244, 35, 232]
    scores = bundle.predict(photos())
    assert scores.dtype == torch.float32
    assert scores.is_inference()
    assert torch.equal(scores, model(photos()))
    assert not bundle.model.training
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in bundle.model.parameters())


def test_scores_of_a_color_model_choose_the_nearest_color_of_the_palette(tmp_path):
    model = build_model(architecture("rgb"), SIZE, 4, seed=3).eval()
    save_bundle(tmp_path, model, CLASSES)
    bundle = load_bundle(tmp_path)
    scores = bundle.predict(photos())
    assert scores.shape == (2, 4, *SIZE)
    colors = np.array([label.color for label in CLASSES]) / 255
    pixels = model(photos()).detach().permute(0, 2, 3, 1).numpy()
    distances = np.sqrt(((pixels[..., None, :] - colors) ** 2).sum(-1))
    assert np.allclose(-distances.transpose(0, 3, 1, 2), scores.numpy(), atol=1e-5)


def test_a_bundle_with_the_keys_of_older_versions_is_the_same(folder):
    now = load_bundle(folder)
    config = json.loads((folder / "config.json").read_text())
    config["normalisation"] = config.pop("normalization")
    config["architecture"] |= {old: config["architecture"].pop(new) for old, new in OLD_KEYS.items()}
    (folder / "config.json").write_text(json.dumps(config))
    old = load_bundle(folder)
    assert (old.architecture, old.weights_sha256, old.extra) == (now.architecture, now.weights_sha256, now.extra)
    assert torch.equal(old.predict(photos()), now.predict(photos()))
    edit(folder, normalization=config["normalisation"])
    refused(folder, "normalisation is the old name of normalization")


def test_config_holds_what_the_format_says(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["schema"] == 1
    assert config["image_size"] == [16, 24]
    assert config["target"] == "classes"
    assert config["normalization"] == {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    assert [row["name"] for row in config["classes"]] == ["road", "sidewalk", "building", "wall"]
    assert config["architecture"]["heads"] == 2


def test_equal_networks_of_equal_classes_give_equal_files(folder, tmp_path):
    again = save_bundle(tmp_path / "again", build_model(architecture(), SIZE, 4, seed=0), CLASSES)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert again == load_bundle(folder).sha256
    assert save_bundle(tmp_path / "other", build_model(architecture(), SIZE, 4, seed=1), CLASSES) != again


@pytest.mark.parametrize(
    ("arch", "size", "label"),
    [
        ({}, SIZE, {"name": "street"}),
        ({}, SIZE, {"color": (1, 2, 3)}),
        ({}, SIZE, {"id": 99}),
        ({"heads": 4, "head_width": 4}, SIZE, {}),
        ({}, SIZE[::-1], {}),
    ],
)
def test_equal_weights_are_not_yet_the_same_model(folder, tmp_path, arch, size, label):
    model = build_model(dataclasses.replace(architecture(), **arch), size, 4, seed=0)
    model.load_state_dict(load_bundle(folder).model.state_dict())
    classes = (dataclasses.replace(CLASSES[0], **label), *CLASSES[1:])
    sha256 = save_bundle(tmp_path / "other", model, classes)
    known, other = load_bundle(folder), load_bundle(tmp_path / "other")
    assert other.weights_sha256 == known.weights_sha256
    assert other.sha256 == sha256 != known.sha256


def test_a_network_is_only_saved_with_its_own_classes(tmp_path):
    model = build_model(architecture(), SIZE, 4, seed=0)
    for classes in (CLASSES[:3], CLASSES[::-1], (*CLASSES[:3], Label("again", (1, 2, 3), 9, 0))):
        with pytest.raises(DataError, match="4 labels with train ids 0 to 3"):
            save_bundle(tmp_path, model, classes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_bundle(folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_truncated_weights_are_refused(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(folder, "model.safetensors", "sha256")


def test_one_changed_bit_is_noticed(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "sha256")


def test_weights_of_another_model_are_refused(folder, tmp_path):
    save_bundle(tmp_path / "other", build_model(architecture(), SIZE, 4, seed=1), CLASSES)
    (folder / "model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    refused(folder, "sha256")


def replace_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, sha256=hashlib.sha256(content).hexdigest())


def test_tensors_that_do_not_fit_are_named(folder, tmp_path):
    good = load_file(folder / "model.safetensors")
    name = "features.bias"
    for changed in (
        {key: value for key, value in good.items() if key != name},
        {**good, name: torch.zeros(9)},
        {**good, name: good[name].double()},
        {**good, name: good[name].half()},
    ):
        save_file(changed, tmp_path / "changed")
        replace_weights(folder, (tmp_path / "changed").read_bytes())
        refused(folder, "does not fit", name)
    save_file({**good, "zzz": torch.zeros(1)}, tmp_path / "changed")
    replace_weights(folder, (tmp_path / "changed").read_bytes())
    refused(folder, "does not fit", "zzz")


def test_a_pickle_in_place_of_weights_is_never_opened(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(pickle, "Unpickler", lambda *a, **k: opened.append(a))
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: opened.append(a))
    monkeypatch.setattr(torch, "load", lambda *a, **k: opened.append(a))
    load_bundle(folder)
    replace_weights(folder, pickle.dumps({"encoder": 1}))
    refused(folder, "not a safetensors file")
    assert opened == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", "[" * 100_000, '{"schema": 1'])
def test_a_config_that_is_no_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


def test_files_that_are_too_large_are_not_read(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # a hole, without blocks on disk
    refused(folder, "bytes, more than")
    (folder / "config.json").write_text(" " * (1 << 20) + "{}")
    refused(folder, "bytes, more than")


def test_an_unknown_schema_is_refused(folder):
    edit(folder, schema=2)
    refused(folder, "schema 2 is unknown")


@pytest.mark.parametrize("key", ["architecture", "classes", "image_size", "target", "normalization", "sha256"])
def test_every_key_of_the_config_is_needed(folder, key):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, f"lacks {key}")


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": [16, 23]},
        {"image_size": [24, 24]},
        {"image_size": [16]},
        {"image_size": [16.0, 24]},
        {"image_size": "16x24"},
        {"image_size": [-16, 24]},
        {"image_size": [1 << 40, 1 << 40]},
        {"classes": []},
        {"classes": 7},
        {"classes": "road"},
        {"classes": [CLASSES[0].to_json()]},
        {"classes": [label.to_json() for label in reversed(CLASSES)]},
        {"classes": [label.to_json() for label in train_classes()[:5]]},
        {"classes": [{**label.to_json(), "id": 1e999} for label in CLASSES]},
        {"target": "rgb"},
        {"normalization": {"mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"architecture": None},
        {"architecture": {}},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_config_that_contradicts_itself_or_the_weights_is_refused(folder, values):
    edit(folder, **values)
    refused(folder, str(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"blocks": 2},
        {"blocks": 10**9},
        {"blocks": True},
        {"mlp_units": [32] * 1000},
        {"mlp_units": [10**12]},
        {"mlp_units": []},
        {"patch_size": 0},
        {"patch_size": "8"},
        {"target": "rgb"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_an_architecture_that_is_not_that_of_the_weights_is_refused(folder, values):
    edit_architecture(folder, **values)
    refused(folder, str(folder))


def test_no_number_of_the_architecture_is_guessed(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["architecture"]["heads"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "heads")


def test_bundles_without_a_later_key_keep_their_meaning(folder):
    before = load_bundle(folder).predict(photos())
    config = json.loads((folder / "config.json").read_text())
    for key in ("pixels", "registers", "activation", "pre_norm"):
        del config["architecture"][key]
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_bundle(folder).predict(photos()), before)


def test_a_bundle_with_a_key_that_is_gone_is_read_where_it_changes_nothing(folder):
    before = load_bundle(folder).predict(photos())
    edit_architecture(folder, query_key_norm=False)
    assert torch.equal(load_bundle(folder).predict(photos()), before)
    edit_architecture(folder, query_key_norm=True)
    refused(folder, "query_key_norm")


OLD_DECODER = {"fine_blocks": 1, "fine_heads": 2, "fine_reach": 2, "narrow_width": 16}
"""Keys that all bundles had until decoders without convolution, under the names of that time."""


def test_a_bundle_of_the_old_decoder_is_read(tmp_path):
    arch = ConvolutionalArchitecture(
        **dataclasses.asdict(architecture())
        | {"decoder": "overlap", "fine_patch": 4, "fine_width": 16, "fine_blocks": 1}
        | {"fine_heads": 2, "fine_radius": 2, "narrow_width": 16}
    )
    model = build_model(arch, SIZE, 4, seed=0).eval()
    save_bundle(tmp_path, model, CLASSES)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"]["fine_reach"] = config["architecture"].pop("fine_radius")
    (tmp_path / "config.json").write_text(json.dumps(config))
    bundle = load_bundle(tmp_path)
    assert bundle.architecture == arch
    assert torch.allclose(bundle.model(photos()), model(photos()), atol=1e-6)


def test_a_bundle_with_keys_of_the_old_decoder_is_read(folder):
    before = load_bundle(folder)
    edit_architecture(folder, **OLD_DECODER)
    after = load_bundle(folder)
    assert after.architecture == dataclasses.replace(before.architecture, fine_blocks=1)
    assert torch.equal(after.predict(photos()), before.predict(photos()))
