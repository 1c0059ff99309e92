"""The command line: what a person types.

app.py        the commands that run one flow each
segment.py, registry.py, stack.py, verify.py, deploy.py, demo.py, model.py   commands with more to say
validate.py   what is checked before any server starts
process.py    how a command starts and ends: signals, failures, exit codes
output.py     its answer: a table, or one JSON object
"""

from flows.cli.app import main

__all__ = ["main"]
