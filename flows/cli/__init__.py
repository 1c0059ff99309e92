"""The command line: what a person types.

app           all commands, in the groups of the help page
data, training, segment, export, registry, demo, deploy, stack    the commands themselves
options       arguments and options that several commands take
validate      what is checked before any server starts
process       how a command starts and ends: signals, exit codes
output        standard output: one answer
"""

from flows.cli.app import main

__all__ = ["main"]
