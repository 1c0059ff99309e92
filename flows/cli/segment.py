"""`vitseg segment`: the options of batch segmentation."""

from typing import Annotated

import typer

from flows.choices import Ids, Picture, Runner
from flows.cli import process, validate
from flows.cli.output import answer
from vitseg.images import MAX_PIXELS
from vitseg.storage import canonical

_MAX_PIXELS = f"Larger images are refused: width times height, by default {MAX_PIXELS // 10**6} million."
_MAX_FAILURES = "Stop once more objects than that have failed."


def segment(
    source: Annotated[str, typer.Argument(help="Photographs: a folder, s3:// or other fsspec address.")],
    dest: Annotated[str, typer.Argument(help="Where masks, ledger and summary go.")],
    model: Annotated[str, typer.Option(help="models:/NAME@alias, models:/NAME/VERSION or a bundle folder.")],
    ids: Annotated[str, typer.Option(help="Class ids in the masks: train or label.")] = "train",
    also: Annotated[str, typer.Option(help="More pictures, with commas: color,overlay,confidence.")] = "",
    tile: Annotated[bool, typer.Option("--tile", help="Slide the model over the full resolution.")] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Ask about the mirrored image, too: twice the time.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, show_default=False, help=_MAX_PIXELS)] = MAX_PIXELS,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a forward pass; by default 2, on a GPU 16.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Images a task; by default at most 256.")] = None,
    runner: Annotated[
        str | None, typer.Option(help="thread, process, dask or ray; by default process for GPUs.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Chunks at a time; by default as suits the machine.")
    ] = None,
    max_failures: Annotated[int | None, typer.Option(min=0, help=_MAX_FAILURES)] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of the machines: says what the job costs.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Write a mask for every photograph; done ones are skipped. Exit code 4: some could not be read."""
    from vitseg.inference.plan import list_source

    wanted = [validate.choice("--also", name, Picture) for name in also.split(",") if name]
    kind = validate.choice("--ids", ids, Ids)
    where = validate.choice("--runner", runner, Runner) if runner else None
    list_source(canonical(source), canonical(dest))
    validate.model(model)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.segment import segment as flow

    result = flow(
        canonical(source), canonical(dest), model=model, ids=kind, also=wanted, tile=tile, flip=flip,
        max_pixels=max_pixels, batch_size=batch_size, chunk=chunk, runner=where, workers=workers,
        max_failures=max_failures, price_per_hour=price_per_hour, dry_run=dry_run,
    )  # fmt: skip
    answer(result, json, some_failed=result.get("failed", 0) > 0)
