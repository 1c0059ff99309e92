"""`python -m tests.bench [PART]`: measure, and print one JSON object a line. A missed goal is not an error."""

import importlib
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import log

PARTS = (
    "start",
    "preprocess",
    "storage",
    "loader",
    "train",
    "job",
    "segment",
    "quality",
    "pretrain",
    "transfer",
    "ceiling",
)


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or not set(arguments) <= set(PARTS):
        log(f"make bench [ONLY=PART]: PART is one of {', '.join(PARTS)}")
        return 2
    for part in arguments or PARTS:
        with tempfile.TemporaryDirectory(prefix="vitseg-bench-") as folder:
            for figure in importlib.import_module(f"tests.bench.{part}").figures(Path(folder)):
                sys.stdout.write(figure.line() + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
