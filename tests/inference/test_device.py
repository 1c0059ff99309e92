import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vitseg.inference import device
from vitseg.inference.device import bf16, own_device


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own_device.cache_clear()
    yield
    own_device.cache_clear()
    for file in device._held:
        file.close()
    device._held.clear()


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
from vitseg.inference.device import own_device
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


@pytest.mark.parametrize(
    ("flags", "wanted"), [("fpu avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_a_processor_computes_in_bfloat16_where_it_has_instructions_for_it(monkeypatch, flags, wanted):
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}\n")
    bf16.cache_clear()
    assert bf16(torch.device("cpu")) == wanted
    bf16.cache_clear()
