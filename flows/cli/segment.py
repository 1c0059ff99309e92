"""`vitseg segment`: the options of batch segmentation."""

from functools import partial
from typing import Annotated, Any

from typer import Option

from flows.cli import options, process, validate
from flows.cli.output import answer
from flows.tasks import Runner
from vitseg.images import MAX_PIXELS
from vitseg.inference.job import PICTURES, Ids

MaskOption = partial(Option, rich_help_panel="Masks")
WorkOption = partial(Option, rich_help_panel="Work")

_IDS = "Write train ids, or the ids that the data set's labels have."
_ALSO = f"Write more pictures beside the masks; names with commas: {', '.join(PICTURES)}."
_TILE = "Slide the model over each image at full resolution."
_FLIP = "Average with the mirrored image; takes twice as long."
_MAX_PIXELS = "Refuse images of more than N pixels."
_MILLIONS = f"{MAX_PIXELS // 10**6} million"
_RUNNER = "process with a GPU and four cores, else thread"
_MAX_FAILURES = "Stop when more than N images have failed."
_PRICE = "Report the cost of the job on machines of this price."
_DRY_RUN = "Only count the work, and estimate its time."

# Any: the default is text, as on the command line, and typer parses it to a list.
Also = Annotated[Any, MaskOption(parser=validate.parse_pictures, metavar="NAMES", help=_ALSO)]
Batch = Annotated[
    int | None,
    WorkOption(min=1, metavar="N", show_default="2, on a GPU 64 of 256x256", help="Predict N images at once."),
]
Chunk = Annotated[int | None, WorkOption(min=1, metavar="N", show_default="at most 256", help="Give a task N images.")]
Workers = Annotated[
    int | None, WorkOption(min=1, metavar="N", show_default="what suits the machine", help=options.WORKERS_HELP)
]


def segment(
    source: options.Source,
    dest: options.Dest,
    model: Annotated[str, Option(metavar="MODEL", help=options.MODEL_HELP)],
    ids: Annotated[Ids, MaskOption(help=_IDS)] = "train",
    also: Also = "",
    tile: Annotated[bool, MaskOption("--tile", help=_TILE)] = False,
    flip: Annotated[bool, MaskOption("--flip", help=_FLIP)] = False,
    max_pixels: Annotated[int, MaskOption(min=1, metavar="N", show_default=_MILLIONS, help=_MAX_PIXELS)] = MAX_PIXELS,
    batch_size: Batch = None,
    chunk: Chunk = None,
    runner: Annotated[Runner | None, WorkOption(show_default=_RUNNER, help=options.RUNNER_HELP)] = None,
    workers: Workers = None,
    max_failures: Annotated[
        int | None, WorkOption(min=0, metavar="N", show_default="no limit", help=_MAX_FAILURES)
    ] = None,
    price_per_hour: Annotated[float | None, WorkOption(min=0, metavar="PRICE", help=_PRICE)] = None,
    dry_run: Annotated[bool, WorkOption("--dry-run", help=_DRY_RUN)] = False,
    json: options.Json = False,
) -> None:
    """Write a mask for every photograph; finished ones are skipped.

    Exit code 4: some photographs could not be read.
    """
    from vitseg.inference.plan import list_source

    validate.model(model)
    list_source(source, dest)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.segment import segment as flow

    result = flow(
        source, dest, model=model, ids=ids, also=also, tile=tile, flip=flip, max_pixels=max_pixels,
        batch_size=batch_size, chunk=chunk, runner=runner, workers=workers, max_failures=max_failures,
        price_per_hour=price_per_hour, dry_run=dry_run,
    )  # fmt: skip
    answer(result, json, some_failed=result.get("failed", 0) > 0)
