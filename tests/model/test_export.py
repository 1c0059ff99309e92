"""Exported files compute what the model does: quickly for one network that has most there is, slowly for all kinds."""

import ast
import dataclasses
import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.model.test_no_convolution import SMALL
from vitseg.architecture import Architecture
from vitseg.config import load_recipe
from vitseg.errors import DataError, UsageError
from vitseg.labels import Label, logit_count, train_classes
from vitseg.model import export
from vitseg.model.bundle import Bundle, load_bundle, save_bundle
from vitseg.model.convolutional_decoder import ConvolutionalArchitecture
from vitseg.model.export import ExportedNetwork, check_exportable, compare, export_model, generated_photographs
from vitseg.model.segmenter import build_model

CLASSES = train_classes()[:5]
BINARY = train_classes((Label("crack", (255, 255, 255), 255, 0),))
SIZE = (32, 48)
MOST = dataclasses.replace(
    SMALL, blocks=1, pixels="image", position="rotary", class_token=True, registers=2, decoder="attention", fine_patch=4,
    fine_blocks=1,
)  # fmt: skip
PAGE = Path(export.__file__).parent / "README.md"
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra vitseg[onnx]"
)


def bundle_of(folder: Path, arch: Architecture, classes: tuple[Label, ...] = CLASSES) -> Bundle:
    """Save a network whose scores are far apart, and load it."""
    model = build_model(arch, (4 * arch.patch_size, 6 * arch.patch_size), logit_count(classes), seed=0)
    nn.init.normal_(model.decoder.head.weight, std=0.2)
    save_bundle(folder, model, classes)
    return load_bundle(folder)


def outputs_of(file: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Run an ONNX file as anyone would."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images.numpy()}), strict=True))


def assert_equal_to_ours(file: str, bundle: Bundle, count: int, size: tuple[int, int]) -> None:
    images = generated_photographs(count, size)
    found = outputs_of(file, images)
    if bundle.classes:
        ours = bundle.predict(images)
        assert ours.argmax(1).unique().numel() > 1
        assert np.abs(found["scores"] - ours.numpy()).max() < 1e-4
        assert found["ids"].dtype == np.uint8
        assert (found["ids"] != ours.argmax(1).numpy()).mean() < 1e-3
    if bundle.architecture.target == "rgb":
        assert np.abs(found["colors"] - bundle.colors(images).numpy()).max() < 1e-4
    assert found.keys() == ({"ids", "scores"} if bundle.classes else set()) | (
        {"colors"} if bundle.architecture.target == "rgb" else set()
    )


def operators(file: str) -> set[str]:
    import onnx

    model = onnx.load(file)
    return {node.op_type for node in (*model.graph.node, *(n for f in model.functions for n in f.node))}


@pytest.fixture(scope="module")
def most(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """Export a network as ONNX that has most of what networks can have."""
    folder = tmp_path_factory.mktemp("most")
    bundle = bundle_of(folder / "bundle", MOST)
    exported = export_model(bundle, "onnx", str(folder / "exported"))
    assert 0 < exported.largest_difference < 1e-4
    assert exported.different_pixels < 1e-3
    return bundle, exported.file


@needs_onnx
@pytest.mark.parametrize(("count", "size"), [(1, SIZE), (3, SIZE), (2, (80, 16))])
def test_onnx_runtime_gives_our_scores_and_masks_for_any_batch_and_size(most, count, size):
    bundle, file = most
    assert_equal_to_ours(file, bundle, count, size)


@needs_onnx
def test_the_graph_has_no_convolution(most):
    found = operators(most[1])
    assert {"MatMul", "LayerNormalization"} <= found
    assert [name for name in found if "conv" in name.lower()] == []


@needs_onnx
def test_the_file_says_of_which_model_it_is_and_nothing_of_this_machine(most):
    import onnx

    bundle, file = most
    about = {row.key: json.loads(row.value) for row in onnx.load(file).metadata_props}
    classes = about.pop("classes")
    assert about == {"model": bundle.sha256, "target": "classes", "image_size": [32, 48], "patch_size": 8}
    assert [Label.from_json(row) for row in classes] == list(bundle.classes)
    assert b".py" not in Path(file).read_bytes()


@needs_onnx
def test_the_example_of_the_page_runs_without_this_project(most, tmp_path, monkeypatch):
    example = PAGE.read_text().split("tests/model/test_export.py -->\n```python\n")[1].split("```")[0]
    used = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) or node.names[0].name for node in used} == {
        "json", "numpy", "onnxruntime", "PIL",
    }  # fmt: skip
    bundle, file = most
    monkeypatch.chdir(tmp_path)
    Path("exported").symlink_to(Path(file).parent)
    photo = generated_photographs(1, (64, 96))[0].permute(1, 2, 0).numpy()
    Image.fromarray(photo).save("photo.jpg", quality=100)
    Path("example.py").write_text(example)
    runpy.run_path("example.py")
    with Image.open("mask.png") as mask:
        pixels = torch.from_numpy(np.array(Image.open("photo.jpg"))).permute(2, 0, 1)[None]
        ours = bundle.segment(pixels)[0].numpy()
        assert (np.asarray(mask) == ours).mean() > 0.8  # at borders, ours are scores that are scaled
        assert mask.getpalette()[:3] == list(bundle.classes[0].color)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    class Zero(nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"ids": images[:, 0], "scores": torch.zeros(1, len(CLASSES), *SIZE)}

    program = torch.export.export(Zero(), (generated_photographs(1, SIZE),))
    monkeypatch.setattr(export, "trace", lambda _: program)
    with pytest.raises(DataError, match="exported scores differ"):
        export_model(bundle_of(tmp_path / "bundle", MOST), "torch", str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()


def test_ids_that_are_not_the_best_scores_are_found(tmp_path):
    network = ExportedNetwork(bundle_of(tmp_path, MOST)).eval()

    def run(images: torch.Tensor, **changes: Any) -> dict[str, np.ndarray]:
        return {name: output.numpy() for name, output in network(images).items()} | changes

    assert compare(network, run) == (pytest.approx(0, abs=1e-6), 0)
    with pytest.raises(DataError, match="exported ids"):
        compare(network, lambda images: run(images, ids=np.zeros((1, *SIZE), np.uint8)))
    with pytest.raises(DataError, match="exported scores differ by nan"):
        compare(network, lambda images: run(images, scores=np.full((1, 5, *SIZE), np.nan)))


def test_the_spiral_decoder_is_refused(tmp_path):
    bundle = bundle_of(tmp_path, dataclasses.replace(SMALL, decoder="spiral"))
    with pytest.raises(UsageError, match="one patch after another"):
        export_model(bundle, "torch", str(tmp_path))


def test_missing_packages_are_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install 'vitseg\[onnx\]'"):
        check_exportable("onnx")
    check_exportable("torch")


KINDS = {
    "patch": (SMALL, CLASSES),
    "added positions, layer scale": (
        dataclasses.replace(
            SMALL, position="add", mlp_units=(48, 24), layer_scale=0.1, class_token=True, decoder="attention"
        ),
        CLASSES,
    ),
    "tokens of two depths, linear decoder": (
        dataclasses.replace(SMALL, depths=2, decoder="linear", activation="swiglu", pre_norm=True),
        CLASSES,
    ),
    "approximate GELU": (dataclasses.replace(SMALL, activation="gelu_tanh", position="rotary"), CLASSES),
    "quick GELU": (dataclasses.replace(SMALL, activation="quick_gelu", patch_size=14, normalization="none"), CLASSES),
    "fine patches of one pixel": (dataclasses.replace(SMALL, decoder="attention", fine_patch=1), CLASSES),
    "the decoder of old bundles": (
        ConvolutionalArchitecture(
            **dataclasses.asdict(dataclasses.replace(SMALL, blocks=1, fine_blocks=1))
            | {"decoder": "overlap", "fine_patch": 4, "fine_heads": 2, "fine_radius": 1, "narrow_width": 16}
        ),
        CLASSES,
    ),
    "binary": (dataclasses.replace(SMALL, registers=2), BINARY),
    "colors": (dataclasses.replace(SMALL, target="rgb"), ()),
    **{name: (load_recipe(name).model, CLASSES) for name in ("tiny", "small", "paper")},
}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_our_scores_and_masks_of_every_kind_of_network(kind, tmp_path):
    arch, classes = KINDS[kind]
    bundle = bundle_of(tmp_path / "bundle", arch, classes)
    exported = export_model(bundle, "onnx", str(tmp_path))
    assert exported.any_size == (arch.decoder != "overlap")
    other = (2 * arch.patch_size, 5 * arch.patch_size)
    for count, size in ((1, bundle.image_size), (3, other if exported.any_size else bundle.image_size)):
        assert_equal_to_ours(exported.file, bundle, count, size)
    assert [name for name in operators(exported.file) if "conv" in name.lower()] == []
