"""The recipes that ship with the package, by name, and the words for the weights that a training starts from."""

from typing import Literal, get_args

Preset = Literal["tiny", "small", "base", "vit-base", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
"""`tiny` is tiny.toml in this folder, and so on."""
TRANSFER = "transfer"
"""transfer.toml is no preset: a training that starts from weights lays it over one."""

Start = Literal["scratch", "champion"]
"""`champion` is the registry's champion; where there is none yet, it means `scratch`, which is random weights."""
StartOrOld = Literal["scratch", "champion", "chance"]
"""Deployments may hold the old name of `scratch`, and a Prefect server refuses what is not in a flow's schema."""
