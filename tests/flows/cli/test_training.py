"""`vitseg model` shows layers to people, and the numbers to programs."""

import json
from pathlib import Path

from tests.flows.command_line import vitseg


def test_model_shows_layers_or_numbers() -> None:
    numbers = vitseg("model", "tiny", "--json").json
    assert numbers.keys() == {"preset", "parameters", "trainable", "flops_per_image", "tokens", "convolutions"}
    shown = vitseg("model", "tiny")
    assert json.dumps(numbers["parameters"]) in shown.out
    assert f"{numbers['parameters']:,}" not in json.dumps(numbers)
    assert "layer" in shown.out.splitlines()[0]


def test_model_shows_what_a_start_would_be(published: Path) -> None:
    shown = vitseg("model", "--init", str(published), "--size", "50x33", "--json").json
    assert (shown["preset"], shown["image_size"], shown["tokens"]) == ("tiny", "48x32", 6)
    assert (shown["encoder"]["patch_size"], shown["encoder"]["mlp_units"]) == (16, [32, 24])
    assert shown["start"]["terms"].startswith("license unknown")
    assert "model.heads=" in shown["start"]["assumed"]
    assert shown["start"]["family"]
