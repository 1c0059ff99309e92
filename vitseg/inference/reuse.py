"""Which masks are there already and still hold: same source content, same model, same options."""

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.job import Options, mask_key
from vitseg.masks import read_mask_metadata
from vitseg.storage import ObjectInfo, Store


def find_mask(
    dest: Store, info: ObjectInfo, model_sha256: str, options: Options
) -> tuple[bytes, dict[str, str]] | None:
    """Return the mask of an object and its metadata, or None where it must be made (again).

    What counts is the PNG's own metadata: it is the same in every store, and one request tells all.

    Raises:
        AccessError, StorageError: DEST can't be read.
    """
    try:
        data = dest.read(mask_key(info.key))
        metadata = read_mask_metadata(data)
    except (NotFoundError, DataError):  # a file that is no mask is overwritten
        return None
    wanted = {"source-etag": info.etag, "model-sha256": model_sha256, "options": options.signature()}
    return (data, metadata) if wanted.items() <= metadata.items() else None
