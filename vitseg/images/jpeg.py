"""JPEG to pixels by libjpeg-turbo itself (simplejpeg): the same pixels as Pillow's, without its copies.

Only plain files are decoded here: photographs in YCbCr or gray, of the expected size. Pillow decodes all others, and
everything where simplejpeg isn't installed; its errors tell what is wrong with a file.
"""

import numpy as np

try:
    import simplejpeg
except ImportError:  # a platform without its wheel
    simplejpeg = None

_START = b"\xff\xd8\xff"


def decode_jpeg(data: bytes, size: tuple[int, int], *, gray: bool = False) -> np.ndarray | None:
    """Decode a JPEG of `size` (H, W), or `gray` ones too, as RGB, uint8 (H, W, 3); None where Pillow must decode it."""
    if simplejpeg is None or not data.startswith(_START):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != size or not (colors == "YCbCr" or (gray and colors == "Gray")):
            return None
        return simplejpeg.decode_jpeg(data)
    except ValueError:  # cut off or damaged
        return None
