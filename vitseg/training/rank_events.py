"""The lines by which ranks report to their launcher: one JSON object each, which starts with its `event`."""

import json
import sys
from typing import Any

_START = '{"event": '


def emit(event: str, **values: Any) -> None:
    """Write one event to standard output, in one piece: all ranks share the pipe."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def parse_event(line: str) -> dict[str, Any] | None:
    """Return the event in a line, or None where the line is only text."""
    if not line.startswith(_START):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None  # two ranks wrote into one line: shown as the text it is
