"""`vitseg verify`: what a data set holds, class by class, and a line for everything that is wrong with it."""

import dataclasses
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli import options
from flows.cli.output import answer, show_table

if TYPE_CHECKING:  # it is imported late, for it imports numpy
    from vitseg.data.verify import VerifyReport

_BAR = 24  # characters of the class that is seen most


def verify(shards: options.Shards, json: options.Json = False) -> None:
    """Check the hashes, counts and labels of all shards, and show the classes.

    Exit code 1: something is wrong.
    """
    from flows.display.console import console, progress
    from vitseg.data.verify import verify as verify_shards

    with progress("verifying", unit="shards") as show:
        report = verify_shards(shards, progress=show)
    if json:
        answer(dataclasses.asdict(report), json)
    else:
        if report.classes and report.pixels_per_class:
            show_table(histogram(report))
        for problem in report.problems:
            console.print(f"[bold red]wrong:[/bold red] {escape(problem)}")
        answer({"shards": report.shards, "samples": report.samples, "problems": len(report.problems)}, json)
    if report.problems:
        raise typer.Exit(1)


def histogram(report: "VerifyReport") -> Table:
    """Return a table of classes: their share of the labeled pixels of each split, and a bar for that of the first."""
    table = Table("class", box=None, padding=(0, 2))
    shares = {}
    for split, pixels in report.pixels_per_class.items():
        table.add_column(f"{split}, %", justify="right")
        total = sum(pixels)
        shares[split] = [100 * count / total if total else 0.0 for count in pixels]
    table.add_column("")
    first = next(iter(shares.values()))
    for number, name in enumerate(report.classes):
        share = first[number]
        bar = "█" * max(1, round(_BAR * share / max(first))) if share else ""
        table.add_row(escape(name), *(_percent(row[number]) for row in shares.values()), bar)
    return table


def _percent(share: float) -> str:
    if not share:
        return "–"
    return f"{share:.2f}" if share >= 0.01 else "< 0.01"
