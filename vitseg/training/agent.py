"""The process between a training command and its ranks: `torch.distributed.run`, which ends when its parent does.

A parent killed by SIGKILL can't tidy up. So each process here watches who its parent is: once that changes, the agent
stops its ranks and leaves, and a rank whose agent is gone leaves at once.
"""

import os
import signal
import sys
import threading
import time

from vitseg import dist
from vitseg.training.rank_events import say

PARENT = "VITSEG_PARENT_PID"
AGENT = "VITSEG_AGENT_PID"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 15


def leave_with(parent: int, *, at_once: bool) -> None:
    """End this process soon after `parent` has ended: by SIGTERM and then SIGKILL, or by SIGKILL at once."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        if not at_once:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


if __name__ == "__main__":
    # The launcher tells its own pid: it may be gone before this line runs.
    leave_with(int(os.environ.get(PARENT) or os.getppid()), at_once=False)
    os.environ[AGENT] = str(os.getpid())
    ended = dist.run_agent(sys.argv[1:])
    if ended:
        say("ended", ranks=list(ended.items()))
        sys.exit(1)
