import os
import signal
import subprocess
import sys
from pathlib import Path

from vitseg.dist import NOTES

WAITS = """
import time
from vitseg.training.watchdog import watched

def for_the_others():
    print("waiting", flush=True)
    time.sleep(60)

with watched(10):
    for_the_others()
"""


def test_a_rank_that_is_told_to_end_says_where_it_stood_and_ends(tmp_path: Path) -> None:
    """Where one rank hangs, the agent ends the others: these are the lines of who waited for it."""
    environment = {**os.environ, NOTES: str(tmp_path), "RANK": "3"}
    with subprocess.Popen([sys.executable, "-c", WAITS], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
    (note,) = tmp_path.iterdir()
    assert note.name.endswith("-3")
    assert "in for_the_others" in note.read_text()
