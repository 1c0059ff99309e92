"""The contact sheet of a job: the images that the model is least sure of, for a person to look at first."""

import numpy as np
from PIL import Image

from vitseg.errors import AccessError, DataError, NotFoundError, StorageError
from vitseg.images.decode import decode_image, one_large
from vitseg.inference.job import Job
from vitseg.inference.ledger import Row
from vitseg.masks import encode_picture, mask_preview
from vitseg.pictures.panels import contact_sheet
from vitseg.storage import Store, open_store

SHOWN = 16
_COLUMNS = 4
_WIDTH = 320
_HEIGHT = 240
_NAME = "least-confident.jpg"


def draw_sheet(dest: Store, job: Job, rows: list[Row]) -> str | None:
    """Draw each image under the colors of its mask, with its mean confidence, and write the sheet beside the ledger.

    Images that have vanished or changed since are left out. Returns the sheet's address, None without images.
    """
    source = open_store(job.root)
    items = [(f"{row.mean_confidence:.2f}  {row.key}", cell) for row in rows if (cell := _cell(source, dest, job, row))]
    if not items:
        return None
    sheet = contact_sheet(items, _COLUMNS, width=_WIDTH)
    dest.write(job.file(_NAME), encode_picture(np.asarray(sheet), "jpg"), content_type="image/jpeg")
    return dest.uri(job.file(_NAME))


def _cell(source: Store, dest: Store, job: Job, row: Row) -> Image.Image | None:
    assert row.width is not None
    assert row.height is not None
    try:
        with one_large(row.width * row.height):
            data, etag = source.read_tagged(row.key)
            if etag != row.etag:
                return None
            photo = decode_image(data, job.options.max_pixels, enough=(_HEIGHT, _HEIGHT))
            scale = min(_WIDTH / photo.width, _HEIGHT / photo.height)
            size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
            photo = photo.resize(size, Image.Resampling.BICUBIC)
            colors = mask_preview(dest.read(str(row.mask_key)), photo.size)
    except (NotFoundError, AccessError, StorageError, DataError):
        return None
    cell = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    cell.paste(Image.blend(photo, colors, 0.5), ((_WIDTH - photo.width) // 2, (_HEIGHT - photo.height) // 2))
    return cell
