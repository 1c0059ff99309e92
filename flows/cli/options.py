"""Every argument and option that several commands take: its type, its check and its help text, declared once.

The words of a choice belong to the module that acts on them; none of these modules imports torch or Prefect.
"""

from functools import partial
from typing import Annotated, Any, get_args

from typer import Argument, Option

from flows.cli import validate
from flows.tasks import Runner as RunnerName
from vitseg.recipes import Preset as PresetName
from vitseg.registry.names import check_name, check_optional_name
from vitseg.storage import canonical

# Options that help pages list in groups of their own.
RecipeOption = partial(Option, rich_help_panel="Recipe")
NodesOption = partial(Option, rich_help_panel="Processes and nodes")
RegistryOption = partial(Option, rich_help_panel="Registry")

# Addresses are made absolute: workers may run in other folders.
Address = partial(Argument, parser=canonical)
_SOURCE = "Read photographs from a folder, s3:// or other fsspec address."
Source = Annotated[str, Address(metavar="SOURCE", help=_SOURCE)]
Dest = Annotated[str, Address(metavar="DEST", help="Write to this folder or s3:// address.")]
Shards = Annotated[str, Address(metavar="SHARDS", help="Read the folder or s3:// address that holds manifest.json.")]
_SHARDS_DEST = "Write shards to this folder or s3:// address."
ShardsDest = Annotated[
    str | None,
    Option("--shards", parser=canonical, metavar="DEST", show_default="under VITSEG_HOME", help=_SHARDS_DEST),
]

MODEL_HELP = "Use this model: models:/NAME@alias, models:/NAME/VERSION or the folder of a bundle."
Model = Annotated[str, Argument(metavar="MODEL", help=MODEL_HELP)]
Json = Annotated[bool, Option("--json", help="Print one JSON object on standard output.")]

# Any: the default is text, as on the command line, and typer parses it to (height, width).
_SIZE = "Make images WIDTHxHEIGHT pixels large, or N for N×N."
SizeOption = partial(Option, parser=validate.parse_size, metavar="SIZE", help=_SIZE)
Size = Annotated[Any, SizeOption()]
OptionalSize = Annotated[Any, SizeOption(show_default="256x256")]

RUNNER_HELP = "Run tasks in threads, in processes, on Dask or on Ray."
WORKERS_HELP = "Run N tasks at the same time."
Runner = Annotated[RunnerName, Option(help=RUNNER_HELP)]
Workers = Annotated[int | None, Option(min=1, metavar="N", show_default="one per core", help=WORKERS_HELP)]

_PRESET = f"Use the architecture and recipe of a preset: {', '.join(get_args(PresetName))}."
PresetArgument = Annotated[PresetName, Argument(metavar="PRESET", help=_PRESET)]
Preset = Annotated[PresetName, RecipeOption(metavar="NAME", help=_PRESET)]
Recipe = Annotated[str | None, RecipeOption(metavar="FILE", help="Lay a TOML file over the preset.")]
_SET = "Set one value, as in run.epochs=20; repeatable."
Set = Annotated[list[str] | None, RecipeOption("--set", metavar="KEY=VALUE", help=_SET)]
_EPOCHS = "Train N epochs; short for --set run.epochs=N."
Epochs = Annotated[int | None, RecipeOption(min=1, metavar="N", help=_EPOCHS)]
_INIT = (
    "Start from these weights, which decide the encoder: hf:OWNER/NAME[@COMMIT], a .safetensors file of a published "
    "Vision Transformer, models:/NAME/VERSION, runs:/ID of a pretraining, or the folder of a bundle or encoder."
)
Init = Annotated[str, RecipeOption(metavar="WEIGHTS", show_default="from scratch", help=_INIT)]

_NPROC = "Start N ranks on each node."
Nproc = Annotated[int | None, NodesOption(min=1, metavar="N", show_default="one per GPU, or 1", help=_NPROC)]
Nnodes = Annotated[int, NodesOption(min=1, metavar="N", help="Train on N nodes.")]
Rendezvous = Annotated[str, NodesOption(metavar="HOST:PORT", help="Let nodes meet at this address of the first one.")]
Resume = Annotated[bool, Option(help="Continue an unfinished job, or start over.")]
_MAX_MINUTES = "End training after this time, counted over all its starts, and register the result."
MaxMinutes = Annotated[float | None, Option(min=0.01, metavar="MINUTES", show_default="no limit", help=_MAX_MINUTES)]

_NAME = "Use the registered model of this name."
Name = Annotated[str, RegistryOption("--name", parser=check_name, metavar="NAME", help=_NAME)]
_TO = "Promote to this registered model."
To = Annotated[str, RegistryOption(parser=check_optional_name, metavar="NAME", show_default="that of --name", help=_TO)]
_RULES = "the version's own rules, or the built-in ones"
Gate = Annotated[
    str | None, RegistryOption(metavar="FILE", show_default=_RULES, help="Judge by the rules of a TOML file.")
]
