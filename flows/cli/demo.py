"""`vitseg demo`: starts the embedded servers, runs the flow `demo`, and stops the servers that it started."""

import asyncio
from pathlib import Path
from typing import Annotated

from typer import Option

from flows.cli import options
from flows.cli.output import answer, report
from flows.stack import environment, stack


def demo(
    workdir: Annotated[Path, Option(metavar="FOLDER", help="Write scenes, pictures and the report here.")] = Path(
        "vitseg-demo"
    ),
    json: options.Json = False,
) -> None:
    """Run the whole pipeline on generated street scenes, and write a report."""
    started = not any(server.running for server in stack.status().servers)
    report("servers", "S3, MLflow and Prefect, on loopback only")
    stack.up(progress=report)
    environment.enter(only_stack=True)
    try:
        from flows.demo import demo as flow  # only now: Prefect reads the address of its server when it is imported

        result = flow(str(workdir))
    finally:
        if started:
            from prefect.logging.handlers import APILogHandler

            asyncio.run(APILogHandler.aflush())  # the server that is about to stop still gets the rest of the logs
            report("servers", "stopping; `vitseg stack up` starts them again, with all that is in them")
            stack.down()
    short = {"mIoU": result["evaluate"]["miou"], "model": result["train"]["model_uri"], "masks": str(workdir / "masks")}
    answer(result if json else {**short, "report": result["report"]}, json)
