"""The demo: starts the embedded servers, goes the whole way, and stops what it started."""

import asyncio
from typing import Any

from flows.cli.output import report
from flows.stack import environment, stack


def demo(workdir: str) -> dict[str, Any]:
    """Run the whole way on generated scenes.

    Args:
        workdir: where scenes, a copy of the masks, pictures and the report go.
    """
    ours = not any(server.running for server in stack.status().servers)
    report("servers", "S3, MLflow and Prefect, on loopback only")
    stack.up(progress=report)
    environment.enter(only_stack=True)
    try:
        # Imported only now: Prefect reads the address of its server when it is imported.
        from flows.demo import demo as flow

        return flow(workdir)
    finally:
        if ours:
            from prefect.logging.handlers import APILogHandler

            asyncio.run(APILogHandler.aflush())  # what is logged still goes to the server that is about to stop
            report("servers", "stopping; `vitseg stack up` starts them again, with all that is in them")
            stack.down()
