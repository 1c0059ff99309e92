"""Two processes that talk over gloo, and one that has nobody to talk to."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vitseg import dist

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from torch import nn
from vitseg import dist

torch.set_num_threads(1)
world = dist.start(timeout_minutes=1)
mine = torch.tensor([world.rank + 1.0, 10.0], dtype=torch.float64, device=world.device)
total = dist.sum_over_ranks(mine)
assert total is mine

if world.rank == 0:
    time.sleep(0.5)
    Path(sys.argv[1], "late").touch()
dist.barrier()
waited = Path(sys.argv[1], "late").exists()

model = nn.Linear(1, 1, bias=False).to(world.device)
with torch.no_grad():
    model.weight.fill_(world.rank)  # rank 0 hands its own to all
replica = dist.replicate(model, world)
start = model.weight.item()
image = torch.full((1, 1), world.rank + 1.0, device=world.device)
with dist.gradients_stay_local(replica, True):
    replica(image).sum().backward()
local = model.weight.grad.item()
with dist.gradients_stay_local(replica, False):
    replica(image).sum().backward()
found = [world.world_size, total.tolist(), waited, start, local, model.weight.grad.item()]
Path(sys.argv[1], f"rank{world.rank}").write_text(repr(found))
dist.stop()
os._exit(0)  # see the end of `vitseg.training.worker`
"""


def test_two_ranks_add_up_wait_and_share_gradients(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [*agent, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # Gradients are 1 and 2: local after the first pass, after the second the mean of 1 + 1 and 2 + 2.
    assert (tmp_path / "rank0").read_text() == repr([2, [3.0, 20.0], True, 0.0, 1.0, 3.0])
    assert (tmp_path / "rank1").read_text() == repr([2, [3.0, 20.0], True, 0.0, 2.0, 3.0])


def test_one_process_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = dist.start()
    assert (world.rank, world.world_size) == (0, 1)
    assert world.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    model, tensor = nn.Linear(1, 1), torch.tensor([1.0, 2.0])
    assert dist.replicate(model, world) is model
    assert dist.sum_over_ranks(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    dist.barrier()
    with dist.gradients_stay_local(model, True):
        model(torch.ones(1, 1)).sum().backward()
    assert model.weight.grad is not None
    dist.stop()


def test_what_fails_while_others_are_waited_for_is_an_echo_but_not_this_ranks_own_gpu(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        lost, own = RuntimeError("Connection closed by peer"), torch.AcceleratorError("CUDA error: device-side assert")
        assert not dist.lost_a_peer(lost)  # nobody was waited for
        with contextlib.suppress(RuntimeError), dist.waiting_for("a sum over all ranks"):
            raise lost
        assert dist.lost_a_peer(lost)
        assert not dist.lost_a_peer(own)
        with dist.waiting_for("all ranks"):
            pass
        assert not dist.lost_a_peer(lost)  # what it waited for has come
    finally:
        dist.stop()
