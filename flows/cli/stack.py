"""`vitseg stack …`: the embedded servers."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.output import answer, report
from flows.cli.process import become
from flows.stack import stack
from flows.stack.stack import StackStatus
from vitseg.errors import NotFoundError

stack_app = typer.Typer(
    name="stack", no_args_is_help=True, help="Run the embedded servers: S3, MLflow and Prefect, on loopback only."
)


@stack_app.command("up")
def stack_up(json: options.Json = False) -> None:
    """Start the servers, or find them running."""
    _show(stack.up(progress=report), json)


@stack_app.command("down")
def stack_down(json: options.Json = False) -> None:
    """Stop the servers; their data stays."""
    stopped = stack.down()
    answer({"stopped": list(stopped)}, json)


@stack_app.command("status")
def stack_status(json: options.Json = False) -> None:
    """Show which servers run, and where."""
    _show(stack.status(), json)


@stack_app.command("run", context_settings={"allow_interspersed_args": False})
def stack_run(words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="Run this.")]) -> None:
    """Run any command in the servers' environment: `vitseg stack run prefect worker start --pool cpu`."""
    if not all(server.running for server in stack.status().servers):
        raise NotFoundError("the servers don't run: start them with `vitseg stack up`")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        become(words[0], words)
    except OSError as error:
        raise NotFoundError(f"{words[0]} can't be run: {error.strerror}") from error


def _show(status: StackStatus, as_json: bool) -> None:
    """Print where the servers are, but not their credentials."""
    rows = {server.name: f"{server.url or ''}  {'ready' if server.ready else 'down'}" for server in status.servers}
    rows["sign in with"] = f"users and passwords in {status.credentials}"
    answer(status.to_json() if as_json else rows, as_json)
