"""`vitseg model` shows layers to people, and the numbers to programs."""

import json

from tests.flows.command_line import vitseg


def test_model_shows_layers_or_numbers() -> None:
    numbers = vitseg("model", "tiny", "--json").json
    assert numbers.keys() == {"preset", "parameters", "trainable", "flops_per_image", "tokens", "convolutions"}
    shown = vitseg("model", "tiny")
    assert json.dumps(numbers["parameters"]) in shown.out
    assert f"{numbers['parameters']:,}" not in json.dumps(numbers)
    assert "layer" in shown.out.splitlines()[0]
