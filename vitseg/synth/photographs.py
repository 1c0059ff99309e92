"""Generated photographs without labels, of several sizes and formats: what lies in somebody's bucket."""

import io

from PIL import Image

from vitseg.storage import open_store
from vitseg.synth.dataset import draw_scene

_SIZES = ((512, 256), (640, 360), (480, 320))  # width, height
_FORMATS = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))
_STREAM = 0x70686F74  # keeps these scenes apart from the labeled ones of the same seed


def write_photographs(dest: str, *, count: int, seed: int) -> int:
    """Write `camera-{0,1}/{index}.{jpg,png,webp}`; equal arguments give equal pictures; return their number.

    Args:
        dest: folder or `s3://` address.
        count: number of photographs.
        seed: same seed, same photographs.
    """
    store = open_store(dest)
    for index in range(count):
        scene_seed = (_STREAM, seed, index)
        photo, _ = draw_scene(scene_seed, _SIZES[index % len(_SIZES)])
        suffix, kind = _FORMATS[index % len(_FORMATS)]
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, kind, quality=92)
        store.write(f"camera-{index % 2}/{index:04d}.{suffix}", buffer.getvalue(), content_type=f"image/{kind.lower()}")
    return count
