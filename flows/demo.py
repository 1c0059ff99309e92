"""Flow: scenes → shards → training → version → masks → report; each step is the flow that a user would run."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, task

from flows.display.console import headline, note, progress
from flows.display.demo_report import write_demo_report
from flows.evaluate import evaluate
from flows.preprocess import preprocess
from flows.segment import segment
from flows.train import train
from vitseg.config import load_recipe
from vitseg.storage import join, open_store
from vitseg.synth.dataset import write_photographs, write_scenes

BUCKET = "s3://vitseg/demo"
TRAIN, VAL, SEED = 240, 48, 7
PHOTOGRAPHS = 24
SIZE = (128, 256)  # height, width
RANKS = 2
MODEL = "vitseg-demo"
OVERRIDES: tuple[str, ...] = ()  # of the preset tiny


@flow(name="demo", flow_run_name="demo in {workdir}")
def demo(workdir: str) -> dict[str, Any]:
    """Go from generated street scenes to masks and a report; results of an earlier demo are reused."""
    folder = Path(workdir).absolute()
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(name: str, what: str) -> Iterator[None]:
        headline(f"{len(seconds) + 1} {name}: {what}")
        start = time.monotonic()
        yield
        seconds[name] = time.monotonic() - start

    addresses = {name: join(BUCKET, name) for name in ("shards", "photographs", "masks")}
    shards, photographs, masks = addresses.values()
    results: dict[str, Any] = {}
    with step("scenes", "streets with labels, photographs without"):
        draw(str(folder / "scenes"), photographs)
    with step("preprocess", "scenes → shards in the bucket"):
        results["preprocess"] = preprocess(str(folder / "scenes"), shards, size=SIZE, shard_samples=48)
    with step("train", f"{RANKS} processes → a version in the registry"):
        results["train"] = train(shards, overrides=OVERRIDES, nproc=RANKS, name=MODEL)
    model = results["train"]["model_uri"]
    with step("evaluate", "the version on the validation scenes"):
        results["evaluate"] = evaluate(model, shards)
    with step("segment", "a mask for every photograph in the bucket"):
        results["segment"] = segment(photographs, masks, model=model, also=["overlay"])
    with step("report", "one page with pictures"):
        recipe = load_recipe("tiny", overrides=OVERRIDES)
        report = write_demo_report(folder, addresses, seconds, results, recipe)
    note(f"look at {report}")
    return {**results, "report": str(report)}


@task
def draw(scenes: str, photographs: str) -> None:
    """Generate the data, unless an earlier demo did."""
    settings = json.dumps({"train": TRAIN, "val": VAL, "seed": SEED, "size": SIZE, "photographs": PHOTOGRAPHS})
    store = open_store(scenes)
    is_same = store.stat("demo.json") and store.read("demo.json").decode() == settings
    if is_same and open_store(photographs).stat("notes.txt"):
        note("the scenes of an earlier demo are still there")
        return
    height, width = SIZE
    with progress("drawing scenes", TRAIN + VAL, "scenes") as show:
        write_scenes(scenes, train=TRAIN, val=VAL, size=(width, height), seed=SEED, progress=show)
    write_photographs(photographs, count=PHOTOGRAPHS, seed=SEED + 1)
    open_store(photographs).write("notes.txt", b"Not everything in a bucket is a photograph.\n")
    store.write("demo.json", settings.encode())
