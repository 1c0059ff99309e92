"""`vitseg model`: a preset layer by layer."""

from typing import Annotated

from rich.table import Table
from typer import Option

from flows.cli import options
from flows.cli.output import answer, show_table


def model(
    preset: options.PresetArgument,
    size: options.Size = "256x256",
    classes: Annotated[int, Option(min=1, metavar="N", help="Predict N classes.")] = 19,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show a preset layer by layer: parameters, tokens, FLOPs of an image."""
    from vitseg.config import load_recipe
    from vitseg.model.summary import summarize

    summary = summarize(load_recipe(preset, None, set_ or []).model, size, classes)
    if not json:
        table = Table("layer", "output", "parameters", box=None, padding=(0, 2))
        for row in summary.rows:
            table.add_row(row.name, "×".join(map(str, row.output_shape)), f"{row.parameters:,}")
        show_table(table)
    numbers = ("parameters", "trainable", "flops_per_image", "tokens", "convolutions")
    answer({"preset": preset, **{name: getattr(summary, name) for name in numbers}}, json)
