"""Whether an object has a mask already that still holds: of the same content, model and options."""

import sys

from vitseg.errors import DataError, NotFoundError
from vitseg.images.decode import one_large, open_image
from vitseg.inference.context import ChunkContext
from vitseg.inference.job import Options, mask_key
from vitseg.inference.ledger import Row, mask_row
from vitseg.masks import decode_mask, read_mask_metadata
from vitseg.storage import ObjectInfo, Store


def find_reusable_mask(
    dest: Store, info: ObjectInfo, model_sha256: str, options: Options
) -> tuple[bytes, dict[str, str]] | None:
    """Return the mask of an object and its metadata, if it was made of this content by this model with these options.

    The PNG's own metadata decides: they are the same in every store, and one request fetches all.
    """
    try:
        data = dest.read(mask_key(info.key))
        metadata = read_mask_metadata(data)
    except (NotFoundError, DataError):  # a file that is no mask is overwritten
        return None
    needed = {"source-etag": info.etag, "model-sha256": model_sha256, "options": options.signature()}
    return (data, metadata) if needed.items() <= metadata.items() else None


def row_of_mask(context: ChunkContext, info: ObjectInfo, data: bytes, metadata: dict[str, str]) -> Row | None:
    """Return the row of a mask that is reused; None where it is damaged and must be made again."""
    try:
        header = open_image(data, sys.maxsize)
        with one_large(header.width * header.height):
            pixels, _ = decode_mask(data, colors=not context.bundle.classes)
            return mask_row(context.job, info, pixels, metadata, context.numbers)
    except (DataError, KeyError, ValueError):
        return None
