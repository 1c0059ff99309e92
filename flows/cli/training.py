"""`vitseg train` and its like: shards become a version in the registry; `vitseg model` shows what would be trained."""

from dataclasses import asdict
from typing import Annotated

from rich.table import Table
from typer import Option

from flows.cli import options, process, validate
from flows.cli.output import answer, show_table
from vitseg.recipes import Start


def pretrain(
    source: options.Source,
    shards: options.ShardsDest = None,
    preset: options.Preset = "tiny",
    recipe: options.Recipe = None,
    set_: options.Set = None,
    epochs: options.Epochs = None,
    size: options.OptionalSize = None,
    init: options.Init = "",
    nproc: options.Nproc = None,
    resume: options.Resume = True,
    json: options.Json = False,
) -> None:
    """Train an encoder on photographs without labels: a start for `vitseg train --init`.

    SOURCE may be a folder of shards, too, whose labels are ignored.
    """
    overrides = _overrides(set_, epochs)
    validate.recipe(preset, recipe, overrides, starts=bool(init))
    validate.source(source)
    init = validate.init(init)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.pretrain import pretrain as flow

    result = flow(
        source, shards=shards, preset=preset, recipe=recipe, overrides=overrides, size=size, init=init, nproc=nproc,
        resume=resume,
    )  # fmt: skip
    answer(result, json)


def train(
    shards: options.Shards,
    preset: options.Preset = "tiny",
    recipe: options.Recipe = None,
    set_: options.Set = None,
    epochs: options.Epochs = None,
    init: options.Init = "",
    nproc: options.Nproc = None,
    nnodes: options.Nnodes = 1,
    rendezvous: options.Rendezvous = "",
    max_minutes: options.MaxMinutes = None,
    resume: options.Resume = True,
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Train, evaluate and register a model.

    An interrupted training is continued by the same command, from its newest checkpoint.
    """
    overrides = _overrides(set_, epochs)
    validate.recipe(preset, recipe, overrides, starts=bool(init))
    validate.nodes(nproc, nnodes, rendezvous)
    validate.shards(shards)
    init = validate.init(init)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.train import train as flow

    result = flow(
        shards, preset=preset, recipe=recipe, overrides=overrides, nproc=nproc, nnodes=nnodes, rendezvous=rendezvous,
        name=name, resume=resume, init=init, max_minutes=max_minutes,
    )  # fmt: skip
    answer(result, json)


def train_node(
    shards: options.Shards,
    nnodes: options.Nnodes,
    rendezvous: options.Rendezvous,
    preset: options.Preset = "tiny",
    recipe: options.Recipe = None,
    set_: options.Set = None,
    epochs: options.Epochs = None,
    init: options.Init = "",
    nproc: options.Nproc = None,
    max_minutes: options.MaxMinutes = None,
    resume: options.Resume = True,
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Add this node to a training on several, with the options that `vitseg train` has on the first one.

    --max-minutes, --resume and --name are taken from the first node; here they change nothing.
    """
    overrides = _overrides(set_, epochs)
    validate.recipe(preset, recipe, overrides, starts=bool(init))
    validate.nodes(nproc, nnodes, rendezvous, first=False)
    validate.shards(shards)
    init = validate.init(init)
    process.prepare_flow()
    from flows.train_node import train_node as flow

    flow(
        shards, nnodes=nnodes, rendezvous=rendezvous, preset=preset, recipe=recipe, overrides=overrides, nproc=nproc,
        init=init,
    )  # fmt: skip
    answer({"shards": shards, "nodes": nnodes}, json)


def model(
    preset: options.PresetArgument = "tiny",
    size: options.Size = "256x256",
    classes: Annotated[int, Option(min=1, metavar="N", help="Predict N classes.")] = 19,
    set_: options.Set = None,
    init: options.Init = "",
    json: options.Json = False,
) -> None:
    """Show layer by layer what would be trained: parameters, tokens, FLOPs of an image.

    With --init also what the weights say of the encoder, what is assumed, and their license.
    """
    from vitseg.config import load_layers
    from vitseg.model.patches import nearest_size
    from vitseg.model.summary import summarize
    from vitseg.training.start import started_request

    layers, start = load_layers(preset, None, set_ or []), None
    if init := validate.init(init):
        process.prepare_tracking()
        from vitseg.training.start_address import read_start

        start = read_start(init)
    arch = started_request(layers, start).recipe.model
    summary = summarize(arch, height_width := nearest_size(size, arch.patch_size), classes)
    if not json:
        table = Table("layer", "output", "parameters", box=None, padding=(0, 2))
        for row in summary.rows:
            table.add_row(row.name, "×".join(map(str, row.output_shape)), f"{row.parameters:,}")
        show_table(table)
    numbers = ("parameters", "trainable", "flops_per_image", "tokens", "convolutions")
    result = {"preset": preset, **{name: getattr(summary, name) for name in numbers}}
    if height_width != size or start:
        result["image_size"] = "{1}x{0}".format(*height_width)
    if start:
        result["encoder"] = {key: getattr(arch, key) for key in start.encoder}
        known = not start.origin.family or start.origin.is_permissive
        terms = "" if known else start.origin.license_words()
        result["start"] = {**asdict(start.origin), "terms": terms, "assumed": start.assumptions}
    answer(result, json)


def evaluate(
    model: options.Model,
    shards: options.Shards,
    split: Annotated[str, Option(metavar="NAME", help="Measure on this split.")] = "val",
    json: options.Json = False,
) -> None:
    """Measure any model on any split of a data set."""
    validate.model(model)
    validate.shards(shards)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.evaluate import evaluate as flow

    answer(flow(model, shards, split=split), json)


def retrain(
    source: options.Source,
    shards: options.ShardsDest = None,
    size: options.Size = "256x256",
    preset: options.Preset = "tiny",
    set_: options.Set = None,
    start: Annotated[
        Start, options.RecipeOption(parser=validate.parse_start, help="Start from these weights.")
    ] = "scratch",
    nproc: options.Nproc = None,
    name: options.Name = "vitseg",
    gate: options.Gate = None,
    to: options.To = "",
    auto_promote: Annotated[
        bool, Option("--auto-promote", help="Promote a version that passes the gate, without a review.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train again if the source has changed, and put the new version up for review."""
    overrides = _overrides(set_)
    validate.gate(gate)
    champion = start == "champion"  # has patches and blocks of its own
    validate.recipe(preset, None, overrides, starts=champion)
    validate.source(source)
    process.prepare_tracking()
    process.prepare_flow()
    from flows.retrain import retrain as flow

    result = flow(
        source, shards=shards, preset=preset, size=size, overrides=overrides, nproc=nproc, name=name, start=start,
        gate=gate, to=to, auto_promote=auto_promote,
    )  # fmt: skip
    short = {key: result.get(key) for key in ("changed", "model_uri", "gate", "champion")}
    answer(result if json else short, json, some_failed=result["preprocess"]["skipped"] > 0)


def _overrides(changes: list[str] | None, epochs: int | None = None) -> list[str]:
    """Return what `--set` and `--epochs` lay over the recipe."""
    return [*(changes or []), *([f"run.epochs={epochs}"] if epochs else [])]
