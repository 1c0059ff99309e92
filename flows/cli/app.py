"""The `vitseg` command line: every command, in the order of the pipeline. Each runs one flow or one plain function.

Results go to standard output: a short table, or with `--json` exactly one JSON object at the end. Everything else
(notes, progress, logs) goes to standard error.

Exit codes: 0 done, 1 failed, 2 usage, 4 done but some inputs failed, 130 stopped by Ctrl-C or SIGTERM.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from flows.cli import options, process, validate
from flows.cli.data import preprocess, synth, verify
from flows.cli.demo import demo
from flows.cli.export import export_model
from flows.cli.output import answer
from flows.cli.registry import registry_app
from flows.cli.segment import segment
from flows.cli.stack import stack_app
from flows.cli.training import evaluate, model, pretrain, retrain, train, train_node
from vitseg import __version__
from vitseg.git_commit import code_commit

app = typer.Typer(
    name="vitseg", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Segment street photographs with a Vision Transformer that uses no convolution: shards, training, review, masks.",
)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        commit = code_commit()
        typer.echo(f"vitseg {__version__}" + (f", commit {commit}" if commit else ""))
        raise typer.Exit


@app.callback()
def _vitseg(
    version: Annotated[
        bool, Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def deploy(
    file: Annotated[Path, Option(metavar="FILE", help="Register the deployments of this file.")] = Path(
        "infra/prefect.yaml"
    ),
    json: options.Json = False,
) -> None:
    """Register pools, deployments and automations with the Prefect server; again after an update."""
    validate.server()
    from flows.cli.deploy import deploy as register

    answer(register(file), json)


COMMANDS: dict[str, list[Callable[..., None] | typer.Typer]] = {
    "Start here": [demo],
    "Data": [synth, preprocess, verify],
    "Training": [pretrain, train, train_node, model, evaluate],
    "Segmentation": [segment, export_model],
    "Review": [retrain, registry_app],
    "Servers": [deploy, stack_app],
}
"""What the help page lists, in its groups."""

for panel, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(command)


def main() -> None:
    """Run the command line: the entry point of `vitseg`."""
    process.run(app)
