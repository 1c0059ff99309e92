"""`vitseg export-model`: a model as one file that runs without this project."""

import dataclasses
from typing import Annotated

from typer import Option

from flows.cli import options, process, validate
from flows.cli.output import answer
from vitseg.model import ExportFormat

_TO = "Write model.onnx, for ONNX Runtime and its like, or model.pt2, a program of torch.export."


def export_model(
    model: options.Model,
    dest: options.Dest,
    to: Annotated[ExportFormat, Option(help=_TO)] = "onnx",
    json: options.Json = False,
) -> None:
    """Write a model as one file that runs without this project.

    Nothing is written unless the file computes what the model does.
    """
    validate.model(model)
    from vitseg.model.export import check_exportable, export_model

    check_exportable(to)
    process.prepare_tracking()
    from flows.display.console import warn
    from vitseg.registry import versions

    bundle = versions.load(model)
    exported = export_model(bundle, to, dest)
    if not exported.any_size:
        height, width = bundle.image_size
        warn(f"the decoder of this model is an old one: the file takes photographs of {width}x{height} pixels alone")
    answer({"model": bundle.sha256, **dataclasses.asdict(exported)}, json)
