"""Signals: one stops a command in order, and it says so; the third ends it at once."""

import signal
import subprocess
import sys
import time

PROGRAM = """
import signal, time
from flows import command
signal.signal(signal.SIGINT, command._stop)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(60)  # what is under way
"""


def test_a_command_says_that_it_is_stopping_and_ends_at_once_if_asked_three_times():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping: what is under way")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "still stopping: once more ends it at once\n"
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "Traceback" not in told
