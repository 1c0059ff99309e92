"""An image of 16,384 × 16,384 pixels under tiles: how much memory a process of its own takes for it."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from .conftest import read_ids

SIDE = 16_384
GIBIBYTE = 2**30

SEGMENT = """
import json, sys
from pathlib import Path
from tests.inference.color_rule import ColorRule, model
from vitseg.inference import model as model_module
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import Options
from vitseg.inference.plan import plan_job

rule = ColorRule(image_size=(1024, 1024))
model_module.load_bundle = lambda folder: rule
job = plan_job(*sys.argv[1:], model=model(), options=Options(tile=True, max_pixels=10**9))
counts = segment_chunk(job, 0)
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps([counts.ok, len(rule.moments), peak]))
"""


def write_large(path: Path) -> None:
    """Write a PNG row by row: red above, blue below, and one green pixel in the middle."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    red, blue = (b"\0" + bytes(color) * SIDE for color in ((250, 20, 10), (10, 20, 250)))
    middle = bytearray(blue)
    middle[1 + 3 * (SIDE // 2) : 4 + 3 * (SIDE // 2)] = bytes((10, 250, 20))
    packer = zlib.compressobj(1)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + block(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)))
        for row in range(SIDE):
            rows = packer.compress(red if row < SIDE // 2 else bytes(middle) if row == SIDE // 2 else blue)
            if rows:
                file.write(block(b"IDAT", rows))
        file.write(block(b"IDAT", packer.flush()) + block(b"IEND", b""))


@pytest.mark.slow
def test_it_takes_less_than_two_gibibytes(tmp_path: Path) -> None:
    source, dest = tmp_path / "photos", tmp_path / "masks"
    source.mkdir()
    write_large(source / "large.png")
    done = subprocess.run([sys.executable, "-c", SEGMENT, str(source), str(dest)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ok, batches, peak = json.loads(done.stdout)
    assert ok == 1
    assert batches > 400  # it was slid over, at its own scale
    assert peak < 2 * GIBIBYTE
    ids = read_ids(dest / "large.png.png")
    assert ids.shape == (SIDE, SIDE)
    assert not ids[: SIDE // 2].any()
    assert ids[SIDE // 2, SIDE // 2] == 1
    assert (ids[SIDE // 2 :] != 2).sum() == 1
