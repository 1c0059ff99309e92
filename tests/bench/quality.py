"""What networks learn from equally many images and in equal time: ours, the paper's decoder, and a U-Net.

By default on generated scenes, which takes minutes. BENCH_SOURCE names a source of real photographs, BENCH_IMAGES
the number of images that each network sees, BENCH_SEEDS the number of seeds, and BENCH_FOLDER where curves and panels
are written. From ten epochs on, all see images with the augmentation of `small`. Networks that are in the folder already
are not trained again: use an empty folder after a change.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from tests.bench.measure import Figure, log, pack_scenes
from tests.bench.networks import COMPARED, SHOWN
from vitseg.data.commit import commit
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.labels import palette
from vitseg.masks import colorize
from vitseg.pictures.panels import contact_sheet

COLORS = {"paper-rgb": "#b07aa1", "paper-classes": "#f28e2b", "small": "#4e79a7", "unet": "#59a14f"}

Curve = list[dict[str, Any]]


def figures(folder: Path) -> Iterator[Figure]:
    keep = Path(os.environ.get("BENCH_FOLDER", folder / "quality"))
    keep.mkdir(parents=True, exist_ok=True)
    seeds = int(os.environ.get("BENCH_SEEDS", "2"))
    shards = shards_of(folder, os.environ.get("BENCH_SOURCE", ""))
    images = int(os.environ.get("BENCH_IMAGES", "768"))
    jobs = [(name, seed) for seed in range(seeds) for name in sorted(COMPARED, reverse=True)]
    with ThreadPoolExecutor(1 if torch.cuda.is_available() else 2) as pool:  # one core each; a GPU trains one at a time
        list(pool.map(lambda job: _train(shards, *job, images, keep), jobs))
    found = {
        name: [json.loads((keep / f"{name}-{seed}.json").read_text()) for seed in range(seeds)] for name in COMPARED
    }
    draw_curves(found).save(keep / "curves.png")
    draw_panels(shards, keep).save(keep / "panels.png")
    for name, runs in found.items():
        final = [{key: run["final"][key] for key in ("miou", "pixel_accuracy")} for run in runs]
        worst = [round(max(map(max, run["lines"])), 3) for run in runs if "lines" in run]
        log(f"{name}: {runs[0]['parameters']:,} parameters, {runs[0]['rows'][-1]['minutes']} min, {final}")
        log(
            f"    seam ratios {runs[0]['final']['seam_ratio']}, most changes at one line of a patch, over the mean: {worst}"
        )
    log(f"curves and panels: {keep}")
    yield from _ratios(found, seeds)


def _ratios(found: dict[str, list[dict[str, Any]]], seeds: int) -> Iterator[Figure]:
    for axis in ("images", "minutes"):
        for other in ("unet", "paper-classes", "paper-rgb"):
            ratios = [
                at_end_of_shorter(found["small"][seed]["rows"], found[other][seed]["rows"], axis)
                for seed in range(seeds)
            ]
            yield Figure(
                f"quality: validation mIoU of small / {other} at equal {axis}", round(statistics.median(ratios), 4),
                goal=1.0, better="higher", rounds=seeds,
            )  # fmt: skip


def at_end_of_shorter(ours: Curve, other: Curve, axis: str) -> float:
    """Return the ratio of mIoU where the shorter curve ends; between points, curves are interpolated."""
    end = min(ours[-1][axis], other[-1][axis])
    at = [
        np.interp(end, [0, *(row[axis] for row in rows)], [0, *(row["miou"] for row in rows)]) for rows in (ours, other)
    ]
    return float(at[0] / max(at[1], 1e-9))


def draw_curves(found: dict[str, list[dict[str, Any]]]) -> Image.Image:
    """Draw validation mIoU over images seen (left) and over minutes (right), one line per seed."""
    device = found["small"][0]["device"]
    figure = Canvas(figsize=(11, 4.2), dpi=110, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, axis, title in zip(
        figure.subplots(1, 2, sharey=True), ("images", "minutes"), ("images seen", f"minutes of {device}"), strict=True
    ):
        for name, runs in found.items():
            for number, run in enumerate(runs):
                points = [(row[axis], row["miou"]) for row in run["rows"]]
                label = f"{name} ({run['parameters'] / 1e6:.1f} M)" if not number else None
                axes.plot(*zip((0, 0), *points, strict=True), "-o", ms=3, lw=1.6, color=COLORS[name], label=label)
        axes.set_title(f"validation mIoU over {title}", loc="left", fontsize=11)
        axes.grid(color="#e5e5e5")
        axes.spines[:].set_visible(False)
        axes.set_axisbelow(True)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_panels(shards: str, folder: Path) -> Image.Image:
    """Draw the same validation photographs with the prediction of each network (seed 0)."""
    manifest = read_manifest(shards)
    shown = Batches(shards, manifest, "val", batch_size=SHOWN, shuffle=False, drop_last=False)
    batch = next(iter(shown.epoch(0)))
    colors = palette(manifest.classes)
    columns = {"ground truth": batch.labels.numpy()} | {name: np.load(folder / f"{name}-0.npy") for name in COMPARED}
    cells = []
    for index in range(len(batch.images)):
        cells.append((batch.keys[index], Image.fromarray(batch.images[index].permute(1, 2, 0).numpy())))
        cells += [(name, Image.fromarray(colorize(ids[index], colors))) for name, ids in columns.items()]
    return contact_sheet(cells, columns=len(columns) + 1, width=256)


def shards_of(folder: Path, source: str) -> str:
    if not source:
        return pack_scenes(folder, train=192, val=48, side=256)[0]
    shards = str(folder / "real")
    plan = make_plan(source)
    commit(plan, [write_shard(shard, plan.options, shards) for shard in plan.shards], shards)
    return shards


def _train(shards: str, name: str, seed: int, images: int, folder: Path) -> None:
    if (folder / f"{name}-{seed}.npy").exists():
        return  # an interrupted bench continues here
    command = [sys.executable, "-m", "tests.bench.networks", shards, name, str(seed), str(images), str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
