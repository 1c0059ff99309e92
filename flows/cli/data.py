"""`vitseg synth` and `vitseg preprocess`: photographs with labels, and the shards made of them."""

from typing import Annotated, get_args

from typer import Option

from flows.cli import options, process, validate
from flows.cli.output import answer
from vitseg.data import Layout


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
    answer(result, json, some_failed=result["skipped"] > 0)
