"""The command `verify`: what a data set holds, class by class, and what is wrong with it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.flows.command_line import vitseg
from vitseg.data.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("stack")


def test_classes_are_shown_with_their_shares_and_a_damaged_shard_is_named(shards: str, tmp_path: Path) -> None:
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    content = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps({**content, "warnings": ["1 label: it is odd"]}))
    manifest = read_manifest(str(own))
    sound = vitseg("verify", str(own))
    assert sound.code == 0, sound.err
    assert "warning: 1 label: it is odd" in sound.err
    for name, split in manifest.splits.items():
        assert f"{name}, %" in sound.out
        shares = dict(zip((label.name for label in manifest.classes), split.pixels_per_class, strict=True))
        common = max(shares, key=lambda label: shares[label])
        (line,) = (line for line in sound.out.splitlines() if line.split()[:1] == [common.split()[0]])
        assert f"{100 * shares[common] / sum(shares.values()):.2f}" in line
    assert "█" in sound.out
    assert "problems" in sound.out

    shard = own / manifest.splits["train"].shards[0].name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    broken = vitseg("verify", str(own), "--json")
    assert broken.code == 1
    assert broken.json["classes"] == [label.name for label in manifest.classes]
    assert any(shard.name in problem for problem in broken.json["problems"])
    told = vitseg("verify", str(own))
    assert told.code == 1
    assert shard.name in told.err
    assert "Traceback" not in told.err
