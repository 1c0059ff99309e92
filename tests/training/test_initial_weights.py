"""What of other weights a network is given, and that every rank trains from it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.training.conftest import small_recipe
from vitseg.architecture import Architecture
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.errors import DataError, UsageError, VitsegError
from vitseg.labels import Label, background_of, logit_count, train_classes
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.encoder_bundle import EncoderBundle, pack_encoder
from vitseg.model.segmenter import Segmenter, build_model
from vitseg.origin import Origin
from vitseg.registry import tracking
from vitseg.training.initial_weights import FILE, fit_initial, load_initial
from vitseg.training.job import Job, job_folder, write_job
from vitseg.training.start_address import read_start
from vitseg.training.worker import train_rank

SIZE = (32, 64)
ARCH = small_recipe().model
VIT = small_recipe(
    "model.pixels=fixed", "model.position=add", "model.class_token=true", "model.mlp_units=[32,24]", "model.patch_size=16",
).model  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    save_bundle(folder, build_model(ARCH, SIZE, 19, seed=5), train_classes())
    return folder


def started(arch: Architecture, initial, folder: Path, classes: int = 19) -> Segmenter:
    """Return a network of seed 0 after it was given its start."""
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(initial.data)
    model = build_model(arch, SIZE, classes, seed=0)
    load_initial(model, str(folder), initial.sha256)
    return model


def test_a_bundle_is_taken_over_whole(bundle: Path, tmp_path: Path) -> None:
    initial = fit_initial(read_start(str(bundle)), ARCH, SIZE, train_classes())
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    model = started(ARCH, initial, tmp_path / "job")
    assert torch.equal(model.eval()(images), load_bundle(bundle).model(images))
    assert initial.taken.startswith("the encoder and ")


def test_classes_are_taken_over_by_name_and_new_ones_start_at_0(bundle: Path, tmp_path: Path) -> None:
    known = train_classes()
    kerb = Label("kerb", (1, 2, 3), 77)
    classes = tuple(dataclasses.replace(one, train_id=place) for place, one in enumerate((known[2], kerb, known[0])))
    initial = fit_initial(read_start(str(bundle)), ARCH, SIZE, classes)
    source, found = load_bundle(bundle).model, started(ARCH, initial, tmp_path / "job", 3)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    scores = found.eval()(images)
    assert torch.allclose(scores[:, [0, 2]], source(images)[:, [2, 0]], atol=1e-6)
    assert not scores[:, 1].any()
    assert initial.taken.endswith("; classes that it knows: building, road; from scratch: kerb")
    assert "new are" not in initial.taken


def test_the_same_classes_in_another_order_are_put_in_order(bundle: Path, tmp_path: Path) -> None:
    classes = tuple(dataclasses.replace(one, train_id=18 - one.train_id) for one in reversed(train_classes()))
    initial = fit_initial(read_start(str(bundle)), ARCH, SIZE, classes)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    scores = started(ARCH, initial, tmp_path / "job").eval()(images)
    assert torch.allclose(scores, load_bundle(bundle).model(images).flip(1), atol=1e-6)


def test_a_decoder_that_reads_its_own_scores_learns_the_new_order(tmp_path: Path) -> None:
    arch = small_recipe("model.decoder=spiral", "model.patch_size=16").model
    one, two = train_classes()[:2]
    save_bundle(tmp_path, build_model(arch, SIZE, 2, seed=5), (one, two))
    turned = (dataclasses.replace(two, train_id=0), dataclasses.replace(one, train_id=1))
    found = load(fit_initial(read_start(str(tmp_path)), arch, SIZE, turned).data)
    assert "decoder.made.weight" not in found
    assert "decoder.made.weight" in load(fit_initial(read_start(str(tmp_path)), arch, SIZE, (one, two)).data)


def test_of_classes_that_are_all_new_the_last_layer_is_new(bundle: Path, tmp_path: Path) -> None:
    classes = tuple(dataclasses.replace(one, name=f"new {one.name}") for one in train_classes())
    initial = fit_initial(read_start(str(bundle)), ARCH, SIZE, classes)
    model, fresh = started(ARCH, initial, tmp_path / "job"), build_model(ARCH, SIZE, 19, seed=0)
    source = load_bundle(bundle).model.state_dict()
    last = [f"decoder.mlp.layers.1.{part}" for part in ("weight", "bias")]
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name] if name in last else source[name])
    assert (
        f"new are 2 tensors: {last[0]}, {last[1]}; classes that it knows: none; from scratch: new road" in initial.taken
    )


@pytest.mark.parametrize("decoder", ["patch", "attention", "spiral"])
def test_several_classes_become_a_binary_model_and_back(tmp_path: Path, decoder: str) -> None:
    arch = small_recipe(f"model.decoder={decoder}", "model.patch_size=16").model
    road, car = train_classes()[0], dataclasses.replace(train_classes()[13], train_id=1)
    binary = (dataclasses.replace(car, train_id=0), background_of(car))
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    folders = []
    for name, classes in (("two", (road, car)), ("binary", binary)):
        model = build_model(arch, SIZE, logit_count(classes), seed=5)
        model.decoder.head.bias.data.normal_(generator=torch.Generator().manual_seed(1))
        save_bundle(folder := tmp_path / name, model, classes)
        folders.append(folder)
    two, one = (load_bundle(folder).model for folder in folders)
    initial = fit_initial(read_start(str(folders[0])), arch, SIZE, binary)
    logits = started(arch, initial, tmp_path / "job", 1).eval()(images)
    if decoder != "spiral":  # which reads its own scores, and so has to learn anew
        scores = two(images)
        assert torch.allclose(logits, scores[:, 1:] - scores[:, :1], atol=1e-5)  # the very same masks
    back = fit_initial(read_start(str(folders[1])), arch, SIZE, (road, car))
    scores = started(arch, back, tmp_path / "job", 2).eval()(images)
    if decoder != "spiral":
        assert torch.allclose(scores[:, 1:] - scores[:, :1], one(images), atol=1e-5)
    assert back.taken.endswith("classes that it knows: car; from scratch: road")


def test_another_image_size_resamples_positions(bundle: Path) -> None:
    initial = fit_initial(read_start(str(bundle)), ARCH, (64, 64), train_classes())
    assert load(initial.data)["encoder.embedding.position"].shape == (64, 8)
    assert "from 4×8 to 8×8 patches" in initial.taken


@pytest.mark.parametrize(
    ("key", "value"),
    [("heads", 4), ("blocks", 2), ("patch_size", 16), ("position", "add"), ("spatial_embedding", 4)],
)
def test_another_encoder_is_told_with_the_option_that_mends_it(bundle: Path, key: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        fit_initial(read_start(str(bundle)), small_recipe(f"model.{key}={value}").model, SIZE, train_classes())
    assert f"--set model.{key}={getattr(ARCH, key)}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_alone(bundle: Path, tmp_path: Path) -> None:
    state = load_bundle(bundle).model.state_dict()
    tensors = {name: value for name, value in state.items() if name.startswith("encoder.")}
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name, content in pack_encoder(EncoderBundle(tensors, ARCH, SIZE), {"epochs": 3}).items():
        (folder / name).write_bytes(content)
    assert load(fit_initial(read_start(str(folder)), ARCH, SIZE, train_classes()).data).keys() == tensors.keys()
    content = (folder / "encoder.safetensors").read_bytes()
    (folder / "encoder.safetensors").write_bytes(content[:-4] + b"\1\2\3\4")
    with pytest.raises(DataError, match="sha256 differs"):
        fit_initial(read_start(str(folder)), ARCH, SIZE, train_classes())


def test_a_published_encoder_is_taken_over_for_its_own_pixels(published: Path) -> None:
    plain = fit_initial(read_start(str(published)), VIT, SIZE, train_classes())
    assert "mean 0.5 and std 0.5" in plain.taken
    names = load(plain.data).keys()
    assert {name for name in Segmenter(VIT, SIZE, 19).state_dict() if name.startswith("encoder.")} <= set(names)
    beside = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (published.parent / "preprocessor_config.json").write_text(json.dumps(beside))
    other = fit_initial(read_start(str(published)), VIT, SIZE, train_classes())
    assert "mean 0.485 and std 0.229" in other.taken
    assert other.sha256 != plain.sha256


def test_another_start_is_another_job_and_ranks_train_from_it(bundle: Path, shards: str, sqlite: str) -> None:
    manifest, recipe = read_manifest(shards), small_recipe("run.epochs=1", "optimizer.learning_rate=1e-12")
    initial = fit_initial(read_start(str(bundle)), recipe.model, manifest.image_size, manifest.classes)
    folder = job_folder(str(bundle.parent), manifest.fingerprint, recipe, initial.sha256)
    assert folder != job_folder(str(bundle.parent), manifest.fingerprint, recipe)
    run_id, origin = tracking.start_run("init", {}, {"vitseg.job": folder}), Origin(family="ViT-S/14", license="mit")
    job = Job(folder, shards, manifest.fingerprint, recipe, run_id, str(bundle), initial.sha256, origin)
    write_job(job)
    Path(folder, FILE).write_bytes(initial.data)
    train_rank(folder, World(0, 1, torch.device("cpu")))
    before, after = (load_bundle(place).model.state_dict() for place in (bundle, Path(folder, "bundle")))
    for name, value in after.items():
        assert torch.allclose(value, before[name], atol=1e-6), name
    again = read_start(f"runs:/{run_id}")
    assert again.origin == origin  # which goes with everything that is made of it
    assert (again.address, again.encoder) == (f"runs:/{run_id}", read_start(str(bundle)).encoder)
    Path(folder, FILE).write_bytes(initial.data[:-1] + b"x")
    with pytest.raises(VitsegError, match="damaged"):
        train_rank(folder, World(0, 1, torch.device("cpu")))
