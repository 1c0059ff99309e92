"""`vitseg synth`, `preprocess` and `verify`: photographs with labels, the shards made of them, and what these hold."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.markup import escape
from rich.table import Table
from typer import Option

from flows.cli import options, process, validate
from flows.cli.output import answer, show_table
from vitseg.data import Layout

if TYPE_CHECKING:  # it is imported late, for it imports numpy
    from vitseg.data.verify import VerifyReport

_BAR = 24  # characters of the class that is seen most


def synth(
    dest: options.Dest,
    train: Annotated[int, Option(min=0, metavar="N", help="Draw N training scenes.")] = 200,
    val: Annotated[int, Option(min=0, metavar="N", help="Draw N validation scenes.")] = 40,
    size: options.Size = "512x256",
    seed: Annotated[int, Option(metavar="N", help="Draw the scenes of this seed.")] = 0,
    json: options.Json = False,
) -> None:
    """Generate street scenes with labels, in the official Cityscapes layout."""
    from flows.display.console import progress
    from vitseg.synth.dataset import write_scenes

    height, width = size
    with progress("drawing scenes", train + val, "scenes") as show:
        scenes = write_scenes(dest, train=train, val=val, size=(width, height), seed=seed, progress=show)
    answer({"dest": dest, "scenes": scenes, "train": train, "val": val, "size": [height, width]}, json)


def preprocess(
    source: options.Source,
    dest: options.Dest,
    layout: Annotated[
        Layout, Option(metavar="NAME", help=f"Read the source in this layout: {', '.join(get_args(Layout))}.")
    ] = "auto",
    size: options.Size = "256x256",
    shard_samples: Annotated[int, Option(min=1, metavar="N", help="Put at most N samples into a shard.")] = 256,
    runner: options.Runner = "thread",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Turn labeled photographs into shards and a manifest.

    Exit code 4: some sources were left out.
    """
    validate.source(source)
    process.prepare_flow()
    from flows.preprocess import preprocess as flow
    from flows.tasks.runners import make_runner

    run = flow.with_options(task_runner=make_runner(runner, workers))
    result = run(source, dest, layout=layout, size=size, shard_samples=shard_samples)
    shown = result if json else {**result, "warnings": len(result["warnings"])}  # they have been told
    answer(shown, json, some_failed=result["skipped"] > 0)


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
        for line in report.warnings:
            console.print(f"[bold yellow]warning:[/bold yellow] {escape(line)}")
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
