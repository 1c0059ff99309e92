"""The `vitseg` command line. Each command runs one flow, or one plain function where there is nothing to orchestrate.

Results go to standard output: a short table, or with `--json` exactly one JSON object at the end. Everything else
(notes, progress, logs) goes to standard error.

Exit codes: 0 done, 1 failed, 2 usage, 4 done but some inputs failed, 130 stopped by Ctrl-C.
"""

from pathlib import Path
from typing import Annotated

import typer

from flows.choices import Layout, Start
from flows.cli import process, segment, validate
from flows.cli.output import answer
from flows.cli.registry import registry_app
from flows.cli.stack import stack_app
from vitseg.storage import canonical
from vitseg.training.nodes import Nodes

app = typer.Typer(
    name="vitseg", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Segment street photographs with a Vision Transformer that uses no convolution: shards, training, review, masks.",
)  # fmt: skip
app.add_typer(stack_app, name="stack")
app.add_typer(registry_app, name="registry")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Runner = Annotated[str, typer.Option(help="Where tasks run: thread, process, dask or ray.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Tasks at a time; by default one a core.")]
Shards = Annotated[str, typer.Argument(help="The folder or s3:// address that holds manifest.json.")]
Model = Annotated[str, typer.Argument(help="models:/NAME@alias, models:/NAME/VERSION or a bundle folder.")]
ModelName = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
_INIT = (
    "Weights to start from: hf:OWNER/NAME, a .safetensors file of a plain ViT, models:/NAME/VERSION, "
    "runs:/ID of a pretraining, or the folder of a bundle or encoder."
)


@app.command()
def demo(
    workdir: Annotated[Path, typer.Option(help="Where pictures and report go.")] = Path("vitseg-demo"),
    json: Json = False,
) -> None:
    """Go the whole way on generated street scenes, and end with a report."""
    from flows.cli.demo import demo as flow

    result = flow(str(workdir))
    short = {"mIoU": result["evaluate"]["miou"], "model": result["train"]["model_uri"], "masks": str(workdir / "masks")}
    answer(result if json else {**short, "report": result["report"]}, json)


@app.command()
def synth(
    dest: Annotated[str, typer.Argument(help="Folder or s3:// address to write to.")],
    train: Annotated[int, typer.Option(min=0, help="Training scenes.")] = 200,
    val: Annotated[int, typer.Option(min=0, help="Validation scenes.")] = 40,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "512x256",
    seed: Annotated[int, typer.Option(help="Same seed, same scenes.")] = 0,
    json: Json = False,
) -> None:
    """Generate street scenes with labels in the official Cityscapes layout."""
    from flows.display.console import progress
    from vitseg.synth.dataset import write_scenes

    height, width = validate.parse_size(size)
    with progress("drawing scenes", train + val, "scenes") as show:
        scenes = write_scenes(dest, train=train, val=val, size=(width, height), seed=seed, progress=show)
    answer({"dest": dest, "scenes": scenes, "train": train, "val": val, "size": [height, width]}, json)


@app.command()
def preprocess(
    source: Annotated[str, typer.Argument(help="Photographs and labels: a folder, s3:// or other fsspec address.")],
    dest: Annotated[str, typer.Argument(help="Where shards and manifest.json go.")],
    layout: Annotated[str, typer.Option(help="auto, cityscapes, pairs, folders, images or photos.")] = "auto",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the samples in pixels.")] = "256x256",
    shard_samples: Annotated[int, typer.Option(min=1, help="Samples a shard.")] = 256,
    runner: Runner = "thread",
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Turn labeled photographs into shards and a manifest. Exit code 4: some sources were left out."""
    parsed = validate.parse_size(size)
    chosen = validate.choice("--layout", layout, Layout)
    validate.source(source)
    process.prepare_flow()
    from flows.preprocess import preprocess as flow
    from flows.tasks.runners import make_runner

    run = flow.with_options(task_runner=make_runner(runner, workers))
    result = run(canonical(source), canonical(dest), layout=chosen, size=parsed, shard_samples=shard_samples)
    answer(result, json, some_failed=result["skipped"] > 0)


@app.command()
def train(
    shards: Shards,
    preset: Annotated[str, typer.Option(help="tiny, small, base, vit-base or paper.")] = "tiny",
    recipe: Annotated[Path | None, typer.Option(help="A TOML file laid over the preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over both.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --set run.epochs=N.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks a node; by default one a GPU, or 1.")] = None,
    nnodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    rendezvous: Annotated[str, typer.Option(help="HOST:PORT where several nodes meet.")] = "",
    max_minutes: Annotated[float | None, typer.Option(min=0.01, help="Register what it has learned by then.")] = None,
    init: Annotated[str, typer.Option(help=_INIT)] = "",
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished job, or start over.")] = True,
    name: ModelName = "vitseg",
    json: Json = False,
) -> None:
    """Train, evaluate and register a model; killed, the same command goes on where it was."""
    overrides = [*(set_ or []), *([f"run.epochs={epochs}"] if epochs else [])]
    chosen = validate.recipe(preset, recipe, overrides)
    Nodes(nproc or 1, nnodes, rendezvous)  # refuses what makes no sense
    validate.shards(shards)
    start = validate.init(init)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.train import train as flow

    result = flow(
        canonical(shards), preset=chosen, recipe=str(recipe) if recipe else None, overrides=overrides, nproc=nproc,
        nnodes=nnodes, rendezvous=rendezvous, name=name, resume=resume, init=start, max_minutes=max_minutes,
    )  # fmt: skip
    answer(result, json)


@app.command("train-node")
def train_node(
    shards: Shards,
    nnodes: Annotated[int, typer.Option(min=2, help="Nodes, all together.")],
    rendezvous: Annotated[str, typer.Option(help="HOST:PORT of the first node, where all meet.")],
    preset: Annotated[str, typer.Option(help="tiny, small, base, vit-base or paper.")] = "tiny",
    recipe: Annotated[Path | None, typer.Option(help="A TOML file laid over the preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over both.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --set run.epochs=N.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks here; by default one a GPU, or 1.")] = None,
    init: Annotated[str, typer.Option(help="Weights to start from, as the first node is told.")] = "",
    name: Annotated[str, typer.Option(help="The first node's business.")] = "vitseg",
    resume: Annotated[bool, typer.Option(help="The first node's business.")] = True,
    max_minutes: Annotated[float | None, typer.Option(help="The first node's business.")] = None,
    json: Json = False,
) -> None:
    """Give one more node to a training: what `vitseg train` is told on the first, this is told on the others."""
    overrides = [*(set_ or []), *([f"run.epochs={epochs}"] if epochs else [])]
    chosen = validate.recipe(preset, recipe, overrides)
    Nodes(nproc or 1, nnodes, rendezvous)  # refuses what makes no sense
    validate.shards(shards)
    start = validate.init(init)
    process.prepare_flow()
    from flows.train_node import train_node as flow

    flow(
        canonical(shards), nnodes=nnodes, rendezvous=rendezvous, preset=chosen, recipe=str(recipe) if recipe else None,
        overrides=overrides, nproc=nproc, init=start,
    )  # fmt: skip
    answer({"shards": canonical(shards), "nodes": nnodes}, json)


@app.command()
def pretrain(
    source: Annotated[
        str, typer.Argument(help="Photographs (all images but labels): a folder, s3:// address, or shards.")
    ],
    shards: Annotated[str | None, typer.Option(help="Where the shards go; by default under VITSEG_HOME.")] = None,
    preset: Annotated[str, typer.Option(help="tiny, small, base, vit-base or paper.")] = "tiny",
    recipe: Annotated[Path | None, typer.Option(help="A TOML file laid over the preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over both.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the samples in pixels, 256x256 by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --set run.epochs=N.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks; by default one a GPU, or 1.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished job, or start over.")] = True,
    json: Json = False,
) -> None:
    """Train an encoder on photographs without labels: a start for `vitseg train --init`."""
    overrides = [*(set_ or []), *([f"run.epochs={epochs}"] if epochs else [])]
    parsed = validate.parse_size(size) if size else None
    chosen = validate.size(parsed, preset, recipe, overrides)
    validate.source(source)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.pretrain import pretrain as flow

    result = flow(
        canonical(source), shards=shards and canonical(shards), preset=chosen, recipe=str(recipe) if recipe else None,
        overrides=overrides, size=parsed, nproc=nproc, resume=resume,
    )  # fmt: skip
    answer(result, json)


@app.command()
def evaluate(
    model: Model,
    shards: Shards,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    json: Json = False,
) -> None:
    """Measure any model on any split."""
    validate.shards(shards)
    validate.model(model)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.evaluate import evaluate as flow

    answer(flow(model, canonical(shards), split=split), json)


app.command()(segment.segment)


@app.command()
def retrain(
    source: Annotated[str, typer.Argument(help="Photographs and labels that may have changed.")],
    shards: Annotated[str | None, typer.Option(help="Where the shards go; by default under VITSEG_HOME.")] = None,
    preset: Annotated[str, typer.Option(help="tiny, small, base, vit-base or paper.")] = "tiny",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the samples in pixels.")] = "256x256",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over the preset.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks; by default one a GPU, or 1.")] = None,
    name: ModelName = "vitseg",
    start: Annotated[str, typer.Option(help="Weights to start from: chance or champion.")] = "chance",
    gate: Annotated[str, typer.Option(help="A TOML file of rules; what it leaves out keeps its default.")] = "",
    to: Annotated[str, typer.Option(help="Registered model that versions are promoted to, if not --name.")] = "",
    auto_promote: Annotated[
        bool, typer.Option("--auto-promote", help="Make a version that passes the gate the champion, unasked.")
    ] = False,
    json: Json = False,
) -> None:
    """Train again if the source has changed, and put the new version up for review."""
    parsed = validate.parse_size(size)
    begin = validate.choice("--start", start, Start)
    validate.gate(gate)
    chosen = validate.size(parsed, preset, None, set_ or [])
    validate.source(source)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.retrain import retrain as flow

    result = flow(
        canonical(source), shards=shards and canonical(shards), preset=chosen, size=parsed, overrides=set_ or [],
        nproc=nproc, name=name, start=begin, gate=gate or None, to=to, auto_promote=auto_promote,
    )  # fmt: skip
    short = {key: result.get(key) for key in ("changed", "model_uri", "gate", "champion")}
    answer(result if json else short, json, some_failed=result["preprocess"]["skipped"] > 0)


@app.command()
def model(
    preset: Annotated[str, typer.Argument(help="tiny, small, base, vit-base or paper.")],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the images in pixels.")] = "256x256",
    classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 19,
    set_: Annotated[list[str] | None, typer.Option("--set", help="model.key=value, laid over the preset.")] = None,
    json: Json = False,
) -> None:
    """Show a preset layer by layer: parameters, tokens, FLOPs an image."""
    from flows.cli.model import show_model

    show_model(preset, validate.parse_size(size), classes, set_ or [], json)


@app.command()
def deploy(
    file: Annotated[Path, typer.Option(help="What is deployed.")] = Path("infra/prefect.yaml"), json: Json = False
) -> None:
    """Register pools, deployments and automations with the Prefect server; again, after an update."""
    validate.server()
    from flows.cli.deploy import deploy as register

    answer(register(file), json)


@app.command()
def verify(shards: Shards, json: Json = False) -> None:
    """Read every shard and check hashes, counts and label range; show the classes. Exit code 1: something is wrong."""
    from flows.cli.verify import verify_shards

    verify_shards(shards, json)


def main() -> None:
    """Run the command line: the entry point of `vitseg`."""
    process.run(app)
