"""Other programs that segment a bucket: a plain loop, and Ray Data in an environment of its own."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tests.bench.measure import log

RAY = "ray==2.60.0"
SIDE = 256


def segment_one(data: bytes, predict: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    """Turn one photograph into one mask, in the usual way."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    scores = predict(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    whole = F.interpolate(scores, size=(photo.height, photo.width), mode="bilinear", align_corners=False)
    mask = io.BytesIO()
    Image.fromarray(whole[0].argmax(0).to(torch.uint8).numpy()).save(mask, "PNG", compress_level=4)
    return mask.getvalue()


def plain_loop(source: str, dest: str, predict: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return images a second of a loop: get, segment, put, one image after another."""
    client = boto3.client("s3")
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    target = dest.removeprefix(f"s3://{bucket}/")
    start, done = time.perf_counter(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for row in page["Contents"]:
            data = client.get_object(Bucket=bucket, Key=row["Key"])["Body"].read()
            key = f"{target}/{row['Key'].removeprefix(prefix + '/')}.png"
            client.put_object(Bucket=bucket, Key=key, Body=segment_one(data, predict))
            done += 1
    return done / (time.perf_counter() - start)


def ray_data(folder: Path, source: str, dest: str, model: str) -> float:
    """Return images a second of Ray Data's pipeline, from its first read to its last write, without its startup."""
    if not folder.exists():
        log(f"installing {RAY} beside the project")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), RAY]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    path = os.pathsep.join([str(Path.cwd()), str(folder)])
    command = [sys.executable, "-m", "tests.bench.segment_peers", source, dest, model]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(json.loads(done.stdout.splitlines()[-1]))


class Predictor:
    """The callable that Ray Data's actors hold; it returns masks as images."""

    def __init__(self, model: str) -> None:
        from vitseg.model.bundle import load_bundle

        torch.set_num_threads(1)
        self.bundle = load_bundle(Path(model))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        small = [
            np.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for photo in batch["image"]
        ]
        scores = self.bundle.predict(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous())
        masks = []
        for own, photo in zip(scores, batch["image"], strict=True):
            whole = F.interpolate(own[None], size=photo.shape[:2], mode="bilinear", align_corners=False)
            masks.append(whole[0].argmax(0).to(torch.uint8).numpy())
        return {"mask": masks}


def ray_main(source: str, dest: str, model: str) -> None:
    import ray
    from pyarrow.fs import S3FileSystem

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    ray.data.DataContext.get_current().enable_progress_bars = False
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    scheme, _, host = endpoint.partition("://")
    store = S3FileSystem(
        endpoint_override=host, scheme=scheme, access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"], region="us-east-1",
    )  # fmt: skip
    start = time.perf_counter()
    photographs = ray.data.read_images(source.removeprefix("s3://"), filesystem=store, mode="RGB")
    count = photographs.count()
    masks = photographs.map_batches(
        Predictor, fn_constructor_args=(model,), batch_size=8, concurrency=1, num_cpus=1
    )  # fmt: skip
    masks.write_images(dest.removeprefix("s3://"), column="mask", file_format="png", filesystem=store)
    sys.stdout.write(json.dumps(count / (time.perf_counter() - start)) + "\n")


if __name__ == "__main__":
    ray_main(*sys.argv[1:])
