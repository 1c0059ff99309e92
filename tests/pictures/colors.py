"""The colors that a picture holds."""

from PIL import Image


def colors_of(image: Image.Image) -> set[tuple[int, int, int]]:
    return {color for _, color in image.getcolors(image.width * image.height)}
