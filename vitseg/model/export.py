"""A trained network as one file that runs without this project: ONNX, or a program of `torch.export`.

Its input is `images`, uint8 (B, 3, H, W), RGB: any number of photographs of the model's size, or of another whose sides are
multiples of the patch size, two patches or more. They are normalized inside. Its outputs, by name:

    ids      uint8 (B, H, W)          train ids: for each pixel, the class of the highest score
    scores   float32 (B, K, H, W)     what `Bundle.predict` gives: logits, whose softmax is the probability of each class; with
                                      target `rgb`, minus the distance to the color of each class
    colors   float32 (B, 3, H, W)     with target `rgb` alone: the image, 0–1

A network without classes has colors alone. What else one needs to know of the network is in the file, too: see `describe`.

Shapes: B images of H×W pixels, K classes, P side of a patch.
"""

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from vitseg.errors import DataError, UsageError
from vitseg.model import ExportFormat
from vitseg.model.bundle import Bundle
from vitseg.model.segmenter import class_scores
from vitseg.storage import open_store

FILES: dict[ExportFormat, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
DESCRIPTION = "description.json"
"""Name of the description among the extra files of a torch program."""
TOLERANCE = 1e-4
"""Largest difference to our scores, for scores up to 1; it grows with them."""

_LARGEST_ONNX = 2**31 - 2**20  # bytes of weights; protobuf holds no more than 2 GiB
_TRACED = 2  # photographs; from a single one, torch would take the batch for fixed

Run = Callable[[Tensor], Mapping[str, np.ndarray]]
"""An exported file: photographs -> its outputs."""


class ExportedNetwork(nn.Module):
    """The network of a bundle, and what turns its output into what the file gives."""

    palette: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model = bundle.model
        self.target, classes = bundle.architecture.target, len(bundle.classes)
        # That of old bundles cuts its grid to blocks, and torch takes their number for fixed.
        self.any_size = bundle.architecture.decoder != "overlap"
        self.outputs = (*(("ids", "scores") if classes else ()), *(("colors",) if self.target == "rgb" else ()))
        self.register_buffer("palette", torch.from_numpy(bundle.palette[:classes]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs of photographs uint8 (B, 3, H, W), by name."""
        output = self.model(images)
        found = {"colors": output}
        if "scores" in self.outputs:
            found["scores"] = class_scores(output, self.palette, self.target)
            found["ids"] = found["scores"].argmax(1).to(torch.uint8)
        return {name: found[name] for name in self.outputs}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far its outputs are from ours on generated photographs."""

    file: str
    """Its address."""
    any_size: bool
    """Whether it takes photographs of any size, or only those of the model's."""
    outputs: tuple[str, ...]
    largest_difference: float
    """Of scores and colors."""
    different_pixels: float
    """Share of pixels with another class, 0–1: where two classes are nearly as likely, rounding decides."""


def check_exportable(to: ExportFormat) -> None:
    """Refuse a format whose packages are not installed (UsageError)."""
    if to == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"--to onnx needs {error.name}: pip install 'vitseg[onnx]', or choose --to torch"
            ) from error


def export_model(bundle: Bundle, to: ExportFormat, dest: str) -> Exported:
    """Write a bundle's network to a folder or s3:// address, in one step, after a check that the file computes the same.

    Raises:
        UsageError: the network can't be exported, or packages are missing.
        DataError: the file computes something else; nothing is written.
        StorageError: DEST can't be written.
    """
    check_exportable(to)
    network = ExportedNetwork(bundle).eval()
    program = trace(network)
    description = describe(bundle)
    data, run = _as_onnx(program, network.outputs, description) if to == "onnx" else _as_torch(program, description)
    difference, pixels = compare(network, run)
    store = open_store(dest)
    store.write(FILES[to], data, content_type="application/octet-stream")
    return Exported(store.uri(FILES[to]), network.any_size, network.outputs, difference, pixels)


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return what the file says of its network.

    `model` is its identity, the sha256 of its config.json; `classes` are in the order of train ids; `image_size` is (H, W).
    """
    return {
        "model": bundle.sha256,
        "target": bundle.architecture.target,
        "classes": [label.to_json() for label in bundle.classes],
        "image_size": list(bundle.image_size),
        "patch_size": bundle.architecture.patch_size,
    }


def trace(network: ExportedNetwork) -> ExportedProgram:
    """Return the network as a graph for any batch of photographs of any size, or of its own where it takes no other.

    Raises:
        UsageError: its decoder makes one patch after another.
    """
    architecture = network.model.architecture
    if architecture.decoder == "spiral":
        raise UsageError(
            "a model with model.decoder=spiral can't be exported: it makes one patch after another, as no fixed graph does"
        )
    side, sizes = architecture.patch_size, {0: Dim("batch")}
    images = generated_photographs(_TRACED, network.model.image_size)
    if network.any_size:
        images = generated_photographs(_TRACED, (4 * side, 6 * side))  # sides that differ, or one would stand for both
        sizes |= {2: side * Dim("rows", min=2), 3: side * Dim("columns", min=2)}
    program = torch.export.export(network, (images,), dynamic_shapes={"images": sizes})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names paths of this machine
    return program


def compare(network: ExportedNetwork, run: Run) -> tuple[float, float]:
    """Compare a file with its network on generated photographs: one of the model's size, and three of another.

    Returns:
        The largest difference of scores and colors, and the share of pixels with another class.

    Raises:
        DataError: the differences are larger than rounding.
    """
    side, own = network.model.architecture.patch_size, network.model.image_size
    largest, different, pixels = 0.0, 0, 0
    for count, size in ((1, own), (3, (2 * side, 3 * side) if network.any_size else own)):
        images = generated_photographs(count, size)
        found = run(images)
        with torch.inference_mode():
            ours = {name: output.numpy() for name, output in network(images).items()}
        for name in ours.keys() - {"ids"}:
            difference = float(np.abs(found[name] - ours[name]).max())
            limit = TOLERANCE * max(1.0, float(np.abs(ours[name]).max()))
            if not difference <= limit:  # nor is it NaN
                raise DataError(f"the exported {name} differ by {difference:.3g} from ours, more than {limit:.3g}")
            largest = max(largest, difference)
        if "ids" in ours:
            if not np.array_equal(found["ids"], found["scores"].argmax(1)):
                raise DataError("the exported ids are not those of the highest scores")
            different, pixels = different + int((found["ids"] != ours["ids"]).sum()), pixels + ours["ids"].size
    return largest, different / max(1, pixels)


def generated_photographs(count: int, size: tuple[int, int]) -> Tensor:
    """Return photographs uint8 (count, 3, *size) of smooth colors with noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    colors = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size, mode="bicubic")
    noise = torch.randn(colors.shape, generator=generator) / 10
    return ((colors + noise).clamp(0, 1) * 255).to(torch.uint8)


def _as_onnx(program: ExportedProgram, outputs: Sequence[str], description: Mapping[str, Any]) -> tuple[bytes, Run]:
    """Return the ONNX file, each value of its description as JSON, and how ONNX Runtime runs it on the processor."""
    import onnx
    import onnxruntime

    if sum(value.nbytes for value in program.state_dict.values()) > _LARGEST_ONNX:
        raise UsageError("the weights are larger than the 2 GB that an ONNX file holds: choose --to torch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of operators of packages that are not installed
    axes = {0: "batch", 2: "height", 3: "width"}
    exported = torch.onnx.export(program, output_names=outputs, dynamic_shapes={"images": axes}, verbose=False)
    assert exported is not None
    model = exported.model_proto
    for item in (*model.graph.node, *model.graph.value_info):
        item.ClearField(
            "metadata_props"
        )  # where in the source a node comes from: paths of this machine, and half of the file
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in description.items()})
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: dict(zip(outputs, session.run(outputs, {"images": images.numpy()}), strict=True))


def _as_torch(program: ExportedProgram, description: Mapping[str, Any]) -> tuple[bytes, Run]:
    """Return the file of `torch.export.save`, and how the program that is loaded from it runs."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(description)})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda images: {name: output.numpy() for name, output in loaded(images).items()}
