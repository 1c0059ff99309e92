"""The flow `segment`: whatever goes wrong with a chunk, a worker or the destination, people get a line, and nothing is lost."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.flows.command_line import vitseg
from tests.inference.test_predict import ARCHITECTURE, SIZE
from vitseg.errors import AccessError, DataError, StorageError, StoreFullError
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model

pytestmark = pytest.mark.usefixtures("stack")  # Prefect reads its settings when it is imported: in the tests

IMAGES = 24
CHUNK = 4


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    save_bundle(tmp_path / "bundle", build_model(ARCHITECTURE, SIZE, 19, seed=1), train_classes())
    return str(tmp_path / "bundle")


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    folder = tmp_path / "photographs"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(chance.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{number:02}.png")
    return str(folder)


def run(source: str, dest: Path, bundle: str, **options: Any) -> dict[str, Any]:
    from flows.segment import segment

    return segment(source, str(dest), model=bundle, **{"chunk": CHUNK, "workers": 2} | options)


OTHERS = ("process", "dask", *(("ray",) if find_spec("prefect_ray") else ()))  # Ray is large: not everybody has it


def masks(dest: Path) -> dict[str, bytes]:
    found = {path.name: np.asarray(Image.open(path)).tobytes() for path in dest.glob("*.png")}
    assert len(found) == IMAGES
    return found


def test_every_runner_makes_the_same_masks(photographs: str, tmp_path: Path, bundle: str) -> None:
    straight = run(photographs, tmp_path / "thread", bundle)
    assert (straight["ok"], straight["failed"], straight["skipped"]) == (IMAGES, 0, 0)
    for name in OTHERS:
        assert run(photographs, tmp_path / name, bundle, runner=name)["ok"] == IMAGES
        assert masks(tmp_path / name) == masks(tmp_path / "thread")


def test_a_worker_that_is_killed_costs_no_chunk(photographs: str, tmp_path: Path, bundle: str) -> None:
    dest = tmp_path / "masks"
    killed: list[int] = []

    def kill_one() -> None:
        while not list(dest.glob("*.png")) and not over.is_set():
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return

    over = threading.Event()
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        result = run(photographs, dest, bundle, runner="process", chunk=2)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1
    assert result["ok"] == IMAGES
    assert len(masks(dest)) == IMAGES


class Chunks:
    """Stands in for `segment_chunk`: some chunks fail each time, others once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, errors: dict[int, Exception], *, once: bool = False) -> None:
        from flows.tasks import segment_chunks

        self.real, self.errors, self.once = segment_chunks.segment_chunk, errors, once
        self.tried: list[int] = []
        monkeypatch.setattr(segment_chunks, "segment_chunk", self)
        monkeypatch.setattr(segment_chunks.do_chunk, "retry_delay_seconds", [0.01, 0.01])

    def __call__(self, job: Any, index: int, **options: Any) -> Any:
        self.tried.append(index)
        if index in self.errors and not (self.once and self.tried.count(index) > 1):
            raise self.errors[index]
        return self.real(job, index, **options)


def test_a_chunk_that_fails_once_is_retried(
    photographs: str, tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(monkeypatch, {1: StorageError("SlowDown"), 4: OSError("reset")}, once=True)
    assert run(photographs, tmp_path / "masks", bundle)["ok"] == IMAGES
    assert sorted(chunks.tried) == [0, 1, 1, 2, 3, 4, 4, 5]


def test_a_chunk_that_fails_for_good_does_not_keep_the_rest_from_being_done(
    photographs: str, tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "masks"
    with monkeypatch.context() as patch:
        Chunks(patch, {1: StorageError("SlowDown")})
        with pytest.raises(StorageError, match=r"1 chunk of 6 could not be done, the others are \(chunk 1: SlowDown\)"):
            run(photographs, dest, bundle)
    assert len(list(dest.glob("*.png"))) == IMAGES - CHUNK
    assert not list(dest.glob("_vitseg/*/summary.json"))
    result = run(photographs, dest, bundle)
    assert (result["ok"], result["failed"]) == (IMAGES, 0)
    assert result["images_per_second"] * result["seconds"] == pytest.approx(CHUNK, rel=0.05)  # what this run made


@pytest.mark.parametrize(
    ("error", "most"),
    [(StorageError("down"), 9), (StoreFullError("no room"), 4), (AccessError("refused"), 4), (DataError("NaN"), 4)],
)
def test_a_job_that_is_hopeless_stops_early(
    photographs: str, tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch, error: Exception, most: int
) -> None:
    chunks = Chunks(monkeypatch, dict.fromkeys(range(24), error))
    with pytest.raises(type(error), match=str(error)):
        run(photographs, tmp_path / "masks", bundle, chunk=1, workers=1)
    assert len(chunks.tried) <= most + 3  # one more chunk waits while the last is looked at


def test_too_many_failures_stop_the_job_and_what_failed_is_tried_again(
    photographs: str, tmp_path: Path, bundle: str
) -> None:
    for number in range(IMAGES):
        if number not in (3, 5):
            Path(photographs, f"{number:02}.png").rename(tmp_path / f"{number:02}.png")
            Path(photographs, f"{number:02}.png").write_bytes(b"broken")
    dest = tmp_path / "masks"
    with pytest.raises(DataError, match="more than --max-failures 5"):
        run(photographs, dest, bundle, max_failures=5, workers=1, chunk=2)
    for kept in tmp_path.glob("*.png"):
        kept.rename(Path(photographs, kept.name))
    assert run(photographs, dest, bundle, max_failures=0)["failed"] == 0
    assert len(masks(dest)) == IMAGES


def test_the_command_says_what_a_job_would_cost_and_what_it_did(photographs: str, tmp_path: Path, bundle: str) -> None:
    dest = tmp_path / "masks"
    Path(photographs, "broken.jpg").write_bytes(b"no picture")
    options = [photographs, str(dest), "--model", bundle, "--json", "--price-per-hour", "36", "--max-pixels", "1200"]
    dry = vitseg("segment", *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert (dry.json["listed"], dry.json["todo"], dry.json["done"]) == (IMAGES + 1, IMAGES + 1, 0)
    assert dry.json["price"] == pytest.approx(dry.json["seconds"] / 100, abs=0.01)
    assert not dest.exists()
    done = vitseg("segment", *options, "--flip")
    assert done.code == 4, done.err
    assert (done.json["ok"], done.json["failed"]) == (IMAGES, 1)
    assert done.json["price"] == pytest.approx(done.json["seconds"] / 100, abs=0.001)
    assert done.json["options"]["flip"] is True
    assert Path(done.json["least_confident"]).is_file()
    assert "failed: broken.jpg: not an image" in done.err
    assert "least-confident.jpg" in done.err
    larger = vitseg("segment", *options[:-1], "1199")
    assert larger.json["failed"] == IMAGES + 1
    assert "40x30 pixels: over 1199 are refused" in larger.err


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_job_with_one_line_and_room_lets_it_go_on(
    photographs: str, full: Path, bundle: str
) -> None:
    ballast = full / "ballast"
    ballast.write_bytes(b"x" * 1_960_000)
    options = ["segment", photographs, str(full / "masks"), "--model", bundle, "--chunk", "4", "--json"]
    stopped = vitseg(*options)
    assert stopped.code == 1, stopped.err
    assert "No space left on device" in stopped.json["error"]
    assert "Traceback" not in stopped.err
    assert len([line for line in stopped.err.splitlines() if "No space left" in line]) == 1
    assert 0 < len(list((full / "masks").glob("*.png"))) < IMAGES
    ballast.unlink()
    assert vitseg(*options).json["ok"] == IMAGES
    assert not list(full.rglob(".vitseg-part-*"))


def test_a_destination_that_cannot_be_written_is_noticed_before_any_work(photographs: str, bundle: str) -> None:
    if os.access("/sys", os.W_OK) and not Path("/sys").is_mount():
        pytest.skip("needs a folder that nobody can write to")
    refused = vitseg("segment", photographs, "/sys/masks", "--model", bundle, "--json")
    assert refused.code == 1
    assert "can't write" in refused.json["error"]
    assert "Traceback" not in refused.err
    assert "objects in" not in refused.err  # the job was not even planned
