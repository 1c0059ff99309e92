"""The process between a training command and its ranks: `torch.distributed.run`."""

import sys

from vitseg import dist
from vitseg.training.rank_reports import emit

if __name__ == "__main__":
    ended = dist.run_agent(sys.argv[1:])
    if ended:
        emit("ended", ranks=list(ended.items()))
        sys.exit(1)
