"""A photograph → the model's size: the only resize before the model, in preprocessing, segmenting and serving alike.

Bicubic and antialiased, 8 bits in and out, columns before rows. torch takes an eighth of Pillow's time for it, and
gives the same but for 1 of 255 in one value of some thousands. Its result does not depend on how an image lies in
memory or is cut into bands, and a mirror image gives the mirrored result; tests hold it to that.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitseg.images.decode import ON_ITS_SIDE, TURNS, broken_images, decode_pixels, one_large, open_image
from vitseg.images.rows import DecodedPhoto, Photo, bands

if TYPE_CHECKING:
    from torch import Tensor


def model_input(data: bytes, size: tuple[int, int], max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a photograph and resize all of it to what the model takes: uint8 (*size, 3), and the photograph's (H, W).

    A decoded image takes up to 4 bytes a pixel: see `one_large`. Raises what `vitseg.images.decode.decode_stored` raises.
    """
    image = open_image(data, max_pixels)
    with one_large(image.height * image.width), broken_images():
        stored = decode_pixels(image, data)
        if isinstance(stored.pixels, np.ndarray):
            return _resize_stored(stored.pixels, stored.turn, size)
        photo = DecodedPhoto(stored)
        return resize_rows(photo, size), photo.size


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a whole image, uint8 (H, W, 3), to `size` (h, w): uint8 (h, w, 3)."""
    import torch  # takes a second, and much that imports this module resizes nothing

    planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    return resize_planes(planes, size)[0].permute(1, 2, 0).numpy()


def resize_planes(images: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Do what `resize` does for a batch, uint8 (B, 3, H, W): uint8 (B, 3, h, w), the same images where it is their size.

    On a GPU the result may differ by 1 of 255 here and there.
    """
    import torch.nn.functional as F

    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if not images.is_cuda:
        return F.interpolate(images, size, mode="bicubic", antialias=True)
    resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(images.dtype)


def resize_rows(photo: Photo, size: tuple[int, int]) -> np.ndarray:
    """Do what `resize` does for a photograph of any size, without all its pixels as an array."""
    return resize(np.concatenate([resize(band, (len(band), size[1])) for band in bands(photo)]), size)


def _resize_stored(pixels: np.ndarray, turn: int, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize pixels as a camera stored them; only what is left is turned upright, which is cheaper."""
    pixels = pixels[..., None].repeat(3, 2) if pixels.ndim == 2 else pixels[..., :3]  # gray; without alpha
    given = pixels.shape[:2]
    if turn >= ON_ITS_SIDE:
        given, size = given[::-1], size[::-1]
        pixels = resize(pixels, (size[0], pixels.shape[1]))  # stored rows are upright columns, which come first
    small = resize(pixels, size)
    return np.asarray(Image.fromarray(small).transpose(TURNS[turn])) if turn > 1 else small, given
