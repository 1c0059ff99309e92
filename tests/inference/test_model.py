import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vitseg import precision
from vitseg.errors import DataError, NotFoundError
from vitseg.inference import model as model_module
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.job import ModelRef
from vitseg.inference.model import _loaded, default_batch, job_precision, load_once, own_device
from vitseg.inference.plan import plan_job
from vitseg.precision import FILE, Precision, keep
from vitseg.registry import versions
from vitseg.storage import open_store

from . import color_rule
from .color_rule import SHA256, model
from .conftest import BLUE, encode, plain, put


def test_a_worker_that_lacks_the_folder_fetches_the_version(rule, tmp_path, monkeypatch):
    asked = []

    def open_model(address):
        asked.append(address)
        return SimpleNamespace(), tmp_path

    monkeypatch.setattr(versions, "open_model", open_model)
    elsewhere = ModelRef(name="streets", version="3", sha256=SHA256, folder=str(tmp_path / "of-another-machine"))
    assert load_once(elsewhere) is rule
    assert load_once(elsewhere) is rule
    assert asked == ["models:/streets/3"]
    assert load_once(model()) is rule  # this one is here
    assert asked == ["models:/streets/3"]


def test_what_is_fetched_must_be_what_was_planned(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "open_model", lambda address: (SimpleNamespace(), tmp_path))
    with pytest.raises(DataError, match="was planned"):
        load_once(ModelRef(name="streets", version="3", sha256="b" * 64, folder="nowhere"))


def test_a_folder_of_ones_own_is_in_no_registry(tmp_path):
    _loaded.cache_clear()
    with pytest.raises(NotFoundError, match="nowhere"):
        load_once(ModelRef(name="bundle", version="local", sha256=SHA256, folder=str(tmp_path / "nowhere")))


def test_the_model_is_loaded_once_a_process(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(8):
        put(source, f"{number}.png", encode(plain(BLUE)))
    loads = []

    def load(folder):
        loads.append(folder)
        time.sleep(0.05)
        return rule

    monkeypatch.setattr(model_module, "load_bundle", load)
    job = plan_job(str(source), str(dest), model=model(), chunk_images=1)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda index: segment_chunk(job, index), range(job.chunks)))
    assert sum(each.ok for each in counts) == 8
    assert loads == [Path(color_rule.FOLDER)]


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own_device.cache_clear()
    yield
    own_device.cache_clear()
    for file in model_module._held_locks:
        file.close()
    model_module._held_locks.clear()


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{index}"))


@pytest.mark.parametrize(("count", "wanted"), [(0, "cpu"), (1, "cuda:0"), (4, "cuda:0")])
def test_the_first_process_takes_the_first_gpu(monkeypatch, count, wanted):
    gpus(monkeypatch, count)
    assert str(own_device()) == wanted


HOLD = """
import sys, torch
from types import SimpleNamespace
torch.cuda.device_count = lambda: 3
torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid=f"gpu-{index}")
from vitseg.inference.model import own_device
print(own_device(), flush=True)
sys.stdin.read()
"""


def test_each_process_takes_a_gpu_of_its_own_and_a_killed_one_gives_it_back(monkeypatch):
    held = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        taken = {process.stdout.readline().strip() for process in held}
        gpus(monkeypatch, 3)
        ours = str(own_device())
        assert {*taken, ours} == {"cuda:0", "cuda:1", "cuda:2"}
        own_device.cache_clear()
        assert str(own_device()) in {"cuda:0", "cuda:1", "cuda:2"}  # none is free: any will do
        held[0].kill()
        held[0].wait()
        own_device.cache_clear()
        assert str(own_device()) in taken
    finally:
        for process in held:
            process.kill()
            process.communicate()


def test_more_processes_than_gpus_share_them_evenly(monkeypatch):
    gpus(monkeypatch, 3)
    taken = []
    for _ in range(6):
        own_device.cache_clear()
        taken.append(str(own_device()))
    assert taken == ["cuda:0", "cuda:1", "cuda:2"] * 2


def test_a_batch_of_any_size_has_as_many_pixels_on_a_gpu():
    cuda = torch.device("cuda")
    sizes = [(8, 8), (256, 256), (512, 512), (1024, 2048), (4096, 4096)]
    assert [default_batch(cuda, size) for size in sizes] == [256, 64, 16, 2, 1]
    assert {default_batch(torch.device("cpu"), size) for size in sizes} == {2}


def outcome(single, half):
    """Stand in for a measurement: seconds in float32 and in bfloat16."""
    return lambda: (single, half)


@pytest.fixture
def instructions(monkeypatch):
    """Be on a processor with instructions for bfloat16."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def test_the_first_worker_of_a_job_chooses_for_all_others_and_for_later_attempts(folders, rule, instructions):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    store = open_store(str(dest))
    assert job_precision(job, store, outcome(2, 1)).name == "bfloat16"
    assert job_precision(job, store, lambda: pytest.fail("measured again")).name == "bfloat16"  # on any machine
    assert plan_job(str(source), str(dest), model=model()) == job  # the same command, after a kill
    again = plan_job(str(source), str(dest), model=model("b" * 64))
    assert job_precision(again, store, outcome(1, 2)).name == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_chunk_is_computed_in_what_its_job_chose(folders, rule, instructions, monkeypatch, name):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    predict, seen = rule.predict, []

    def watched(images, moments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return predict(images)

    monkeypatch.setattr(rule, "predict", watched)
    job = plan_job(str(source), str(dest), model=model())
    keep(open_store(str(dest)), job.file(FILE), Precision(name, "of a test"))
    assert segment_chunk(job, 0).ok == 1
    assert commit_job(job, 1.0).precision == name
    assert seen == [name == "bfloat16"]


def test_a_mask_is_kept_in_whichever_precision_it_was_computed(folders, rule, instructions):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    store, made = open_store(str(dest)), []
    for name in ("bfloat16", "float32"):
        job = plan_job(str(source), str(dest), model=model())
        keep(store, job.file(FILE), Precision(name, "of a test"))
        counts = segment_chunk(job, 0)
        commit_job(job, 1.0)
        made.append((counts.ok, counts.skipped))
    assert made == [(1, 0), (0, 1)]
