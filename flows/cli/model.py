"""`vitseg model`: a preset layer by layer."""

from collections.abc import Sequence

from rich.table import Table

from flows.cli.output import answer, show_table
from vitseg.config import load_recipe
from vitseg.model.summary import summarize


def show_model(preset: str, size: tuple[int, int], classes: int, overrides: Sequence[str], as_json: bool) -> None:
    """Print the layers of a preset and its numbers; `size` is the height and width of an image, pixels."""
    summary = summarize(load_recipe(preset, None, overrides).model, size, classes)
    result = {
        "preset": preset,
        "parameters": summary.parameters,
        "trainable": summary.trainable,
        "flops_per_image": summary.flops_per_image,
        "tokens": summary.tokens,
        "convolutions": summary.convolutions,
    }
    if not as_json:
        table = Table("layer", "output", "parameters", box=None, padding=(0, 2))
        for row in summary.rows:
            table.add_row(row.name, "×".join(map(str, row.output_shape)), f"{row.parameters:,}")
        show_table(table)
    answer(result, as_json)
