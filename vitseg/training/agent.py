"""The process between a training command and its ranks: `torch.distributed.run`."""

import sys

from vitseg import dist
from vitseg.child_processes import end_with_parent
from vitseg.training.rank_reports import emit

if __name__ == "__main__":
    end_with_parent()  # where the launcher and its watcher are killed together
    ended = dist.run_agent(sys.argv[1:])
    if ended:
        emit("ended", ranks=list(ended.items()))
        sys.exit(1)
