"""JPEG to pixels by libjpeg-turbo itself (simplejpeg): the same pixels as Pillow's, without its copies.

Only what is plainly in order is decoded here: photographs in YCbCr or gray, of the size that is expected. All else
is Pillow's, which also words what is wrong; where simplejpeg isn't installed, that is everything.
"""

import numpy as np

try:
    import simplejpeg
except ImportError:  # a platform without its wheel
    simplejpeg = None

_START = b"\xff\xd8\xff"


def decode_jpeg(data: bytes, size: tuple[int, int], *, gray: bool = False) -> np.ndarray | None:
    """Decode a JPEG as RGB, uint8 (H, W, 3); None where Pillow must be asked.

    Args:
        data: content of the file.
        size: (H, W) that is expected.
        gray: take one in gray, too.
    """
    if simplejpeg is None or not data.startswith(_START):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != size or not (colors == "YCbCr" or (gray and colors == "Gray")):
            return None
        return simplejpeg.decode_jpeg(data)
    except ValueError:  # cut off or damaged
        return None
