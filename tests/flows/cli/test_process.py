"""How commands end: with their answer and exit code, soon, and in order when a signal stops them."""

import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import signal, time
from flows.cli.process import Command
Command().handle_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(60)  # work under way
"""


def test_a_command_says_that_it_is_stopping_and_ends_at_once_if_asked_three_times():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping: work under way")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "still stopping: once more ends it at once\n"
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "Traceback" not in told


END = """
import atexit, logging.handlers, sys, typer
from flows.cli import output, process

app = typer.Typer()

class Large:
    def __del__(self):
        print("taken apart", file=sys.stderr)

@app.command()
def work(json: bool = False):
    sys.modules["large"] = Large()
    atexit.register(print, "closed", end=" ", file=sys.stderr)  # as libraries do
    global told
    told = logging.handlers.MemoryHandler(9, target=logging.StreamHandler())
    told.handle(logging.makeLogRecord({"msg": "logged", "levelno": 20}))
    output.answer({"masks": 3}, json, some_failed=True)

process.run(app)
"""


def test_the_end_of_a_command_closes_what_libraries_left_open_and_takes_nothing_apart(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", END, "--json"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "VITSEG_HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, '{"masks": 3}\n')
    assert done.stderr == "closed logged\n"


def test_a_signal_after_the_answer_changes_nothing(tmp_path):
    late = END.replace('print, "closed", end=" ", file=sys.stderr', "os.kill, os.getpid(), signal.SIGINT")
    done = subprocess.run(
        [sys.executable, "-c", f"import os, signal\n{late}", "--json"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "VITSEG_HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (4, '{"masks": 3}\n', "")
