"""One job in a process of its own: `python -m tests.bench.segment_run SOURCE DEST MODEL [--free] [--tile]`.

With `--free` the model costs nothing: its scores exist beforehand. The last line of standard output is the result.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

SIZE = (256, 256)


def smooth_scores(classes: int) -> torch.Tensor:
    """Return scores (1, K, h, w) like those of trained models: regions of one class with borders between."""
    generator = torch.Generator().manual_seed(0)
    regions = F.interpolate(torch.randn(1, classes, 6, 6, generator=generator), size=SIZE, mode="bilinear")
    shares = F.avg_pool2d(F.one_hot(regions.argmax(1), classes).permute(0, 3, 1, 2).float(), 5, 1, 2)
    return (8 * shares).contiguous()


def main(source: str, dest: str, model: str, *options: str) -> None:
    from flows.cli.process import prepare_flow
    from flows.stack import environment

    environment.enter()
    prepare_flow()
    if "--free" in options:
        from vitseg.model.bundle import Bundle

        scores = smooth_scores(19)
        Bundle.predict = lambda self, images, moments=None: scores.expand(len(images), -1, -1, -1)  # type: ignore[assignment]
    from flows.segment import segment

    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = segment(source, dest, model=model, tile="--tile" in options)
    # Not getrusage: its figure starts with the memory of the parent process.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    output.write(json.dumps({**answer, "peak_bytes": peak}) + "\n")
    output.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
