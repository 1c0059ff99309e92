"""Every kind of `--init`: what is read there, once, and what is refused in one line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.conftest import small_recipe
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.origin import Origin
from vitseg.storage import Store, open_store
from vitseg.training.start_address import check_address, read_start


def beside(file: Path, name: str = "config.json", **values: Any) -> None:
    (file.parent / name).write_text(json.dumps(values))


def test_the_encoder_of_a_published_file_is_what_the_files_beside_it_say(published: Path) -> None:
    plain = read_start(str(published))
    sizes = ("patch_size", "encoder_projection", "blocks", "mlp_units", "class_token")
    assert [plain.encoder[key] for key in sizes] == [16, 24, 1, (32, 24), True]
    assert plain.free == {"patch_size", "heads", "head_width", "norm_epsilon", "activation"}
    assert "model.heads=" in plain.assumptions
    assert "mean 0.5 and std 0.5 (there is no preprocessor_config.json)" in plain.assumptions
    beside(published, num_attention_heads=2, layer_norm_eps=1e-12, hidden_act="gelu")
    beside(published, "preprocessor_config.json", image_mean=[0.4] * 3, image_std=[0.2] * 3)
    for address in (published, published.parent):
        told = read_start(str(address))
        assert [told.encoder[key] for key in ("heads", "head_width", "norm_epsilon")] == [2, 8, 1e-12]
        assert (told.free, told.assumptions) == ({"patch_size"}, "")
    beside(published, hidden_act="sine")
    with pytest.raises(UsageError, match=rf"--init {published}: .*sine"):
        read_start(str(published))


def test_an_encoder_of_ours_decides_all_that_it_computes_by(tmp_path: Path) -> None:
    arch = small_recipe().model
    save_bundle(tmp_path, build_model(arch, (32, 64), 19, seed=5), train_classes())
    start = read_start(str(tmp_path))
    assert {key: getattr(arch, key) for key in start.encoder} == start.encoder
    assert {"pixels", "patch_size", "blocks", "heads", "norm_epsilon", "spatial_embedding"} <= start.encoder.keys()
    assert not {"decoder", "fine_patch", "dropout", "stochastic_depth", "target", "encoder"} & start.encoder.keys()
    assert start.origin == Origin()


def test_what_published_weights_a_network_began_with_goes_with_it(tmp_path: Path) -> None:
    origin = {"family": "DINOv3 ViT-S/16", "license": "dinov3-license"}
    model = build_model(small_recipe().model, (32, 64), 19, seed=5)
    save_bundle(tmp_path, model, train_classes(), extra={"origin": origin})
    assert read_start(str(tmp_path)).origin == Origin(**origin)


def test_the_license_beside_weights_is_read(published: Path) -> None:
    content = hashlib.sha256(published.read_bytes()).hexdigest()
    origin = read_start(str(published)).origin
    assert (origin.address, origin.sha256, origin.license) == (str(published), content, "")
    (published.parent / "LICENSE").write_text("\n  MIT License\n\nCopyright")
    assert read_start(str(published)).origin.license == "MIT License"
    beside(published, pretrained_cfg={"license": "apache-2.0"})
    assert read_start(str(published)).origin.license == "apache-2.0"
    beside(published, license="cc-by-nc-4.0")
    assert read_start(str(published)).origin.license == "cc-by-nc-4.0"


def test_weights_in_several_files_are_one_start(published: Path) -> None:
    whole = read_start(str(published.parent / published.name))
    tensors = list(load_file(published).items())
    parts = {"model-1-of-2.safetensors": dict(tensors[:5]), "model-2-of-2.safetensors": dict(tensors[5:])}
    published.unlink()
    for name, part in parts.items():
        save_file(part, published.parent / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    beside(published, "model.safetensors.index.json", **index)
    beside(published, architecture="vit")
    found = read_start(str(published.parent))
    assert found.encoder == whole.encoder
    for name in ("../secret.safetensors", "model.bin"):
        beside(published, "model.safetensors.index.json", weight_map={"x": name})
        with pytest.raises(DataError, match="other files than"):
            read_start(str(published.parent))
    beside(published, "model.safetensors.index.json", weight_map={"x": "gone.safetensors"})
    with pytest.raises(NotFoundError, match=r"gone\.safetensors"):
        read_start(str(published.parent))


def test_a_bucket_holds_weights_too(published: Path, s3: str) -> None:
    open_store(f"{s3}/vit").write("any-name.safetensors", published.read_bytes())
    found = read_start(f"{s3}/vit/any-name.safetensors")
    assert found.origin.sha256 == read_start(str(published)).origin.sha256


def test_a_file_is_read_once(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = type(open_store(str(published.parent))).read

    def counted(store: Store, key: str) -> bytes:
        reads.append(key)
        return read(store, key)  # type: ignore[arg-type]

    monkeypatch.setattr(type(open_store(str(published.parent))), "read", counted)
    read_start(str(published))
    assert reads.count("model.safetensors") == 1


def test_a_file_too_large_is_not_read(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitseg.training.start_address.MAX_BYTES", 1000)
    with pytest.raises(DataError, match="more than the 1000 it may have"):
        read_start(str(published))


def test_what_can_run_code_is_never_read(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "vit.pth", "vit.pt", "last.ckpt", "vit.npz"):
        with pytest.raises(UsageError, match="can run code"):
            check_address(str(tmp_path / name))
    file = tmp_path / "model.safetensors"
    torch.save({"x": torch.ones(1)}, file)
    with pytest.raises(DataError, match="not a safetensors file"):
        read_start(str(file))


@pytest.mark.parametrize(
    ("address", "kind", "hint"),
    [
        ("nowhere", NotFoundError, "hf:OWNER/NAME"),
        ("nowhere.safetensors", NotFoundError, "does not exist"),
        ("hf:only-a-name", UsageError, "hf:OWNER/NAME"),
        ("models:/nobody/7", NotFoundError, "nobody/7"),
        ("runs:/" + "0" * 32, NotFoundError, "0000"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(sqlite: str, address: str, kind: type, hint: str) -> None:
    with pytest.raises(kind, match=hint) as caught:
        read_start(address)
    assert "\n" not in str(caught.value)
