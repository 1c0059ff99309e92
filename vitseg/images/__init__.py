"""The one way from the bytes of a photograph to pixels, and to what the model takes.

decode.py    bytes → one upright RGB image, whatever camera or program wrote them
             (jpeg.py and png.py: the fast decoders; rgb.py: any mode → RGB)
resize.py    a photograph → the model's size
rows.py      a photograph of any size as rows of pixels, in bounded memory
"""
