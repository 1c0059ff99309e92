"""The one way from the bytes of a photograph to pixels, and to what the model takes.

formats.py   which formats are read, and which objects may be images at all
decode.py    bytes → one upright image, whatever camera or program wrote them
             (jpeg.py, png.py, tiff.py: the decoders that tell what they notice)
numbers.py   numbers of more than 8 bits → bytes
rows.py      a photograph of any size as rows of pixels, in bounded memory
resize.py    a photograph → the model's size: the only resize before the model
"""

MAX_PIXELS = 200_000_000
"""Larger images are refused unless the caller sets another limit: width × height."""
