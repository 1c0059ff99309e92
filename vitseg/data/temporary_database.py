"""Tables in a temporary file, for what is too large for memory.

The file has no name: it vanishes with its process, however that ends. TMPDIR decides on which disk it lies.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

from vitseg.errors import StoreFullError


class TemporaryDatabase(sqlite3.Connection):
    """A database of its own on disk, of which some 2 MB are in memory; it is closed with its last reference."""

    def __init__(self) -> None:
        super().__init__("", check_same_thread=False)  # any thread that collects garbage may close it
        self.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back

    def __del__(self) -> None:
        self.close()


def packed(text: str) -> bytes:
    """Return text as bytes that sort as the text does; names that are not UTF-8 keep their escapes."""
    return text.encode("utf-8", "surrogatepass")


def unpacked(data: bytes) -> str:
    """Return what `packed` was given."""
    return data.decode("utf-8", "surrogatepass")


@contextlib.contextmanager
def on_disk() -> Iterator[None]:
    """Turn the errors of a full disk, or of a temporary folder that can't be written, into a StoreFullError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")):
            text = f"no room for a temporary file ({error}): set TMPDIR to a folder on a larger disk"
            raise StoreFullError(text) from error
        raise
