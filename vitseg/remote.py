"""Any address that fsspec can read (`gs://`, `az://`, `https://` …), as a store of sources."""

from collections.abc import Iterator
from typing import Any

import fsspec

from vitseg.errors import NotFoundError, StorageError, UsageError
from vitseg.storage import ObjectInfo, content_md5, join


class FsspecStore:
    """Reads and lists; it does not write."""

    def __init__(self, address: str) -> None:
        self.root = address.rstrip("/")
        try:
            self._fs, self._path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{address}: {error}") from error

    def _info(self, row: dict[str, Any]) -> ObjectInfo:
        key = str(row["name"]).removeprefix(self._path).lstrip("/")
        tag = row.get("ETag") or row.get("etag") or row.get("mtime") or row.get("updated") or row.get("size")
        return ObjectInfo(key, int(row.get("size") or 0), str(tag).strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`."""
        try:
            rows = self._fs.find(self._path, detail=True)
        except OSError as error:
            raise StorageError(f"can't list {self.root}: {error}") from error
        for row in rows.values():
            info = self._info(row)
            if info.key.startswith(prefix):
                yield info

    def stat(self, key: str) -> ObjectInfo | None:
        """See `Store.stat`."""
        try:
            return self._info(self._fs.info(f"{self._path}/{key}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"can't ask for {self.uri(key)}: {error}") from error

    def metadata(self, key: str) -> dict[str, str]:
        """Not asked for: sources are never written to."""
        return {}

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        try:
            return self._fs.cat_file(f"{self._path}/{key}")
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.uri(key)} does not exist") from error
        except OSError as error:
            raise StorageError(f"can't read {self.uri(key)}: {error.strerror or error}") from error

    def write(
        self,
        key: str,
        data: bytes,
        *,
        metadata: dict[str, str] | None = None,
        content_type: str | None = None,
        if_absent: bool = False,
    ) -> bool:
        """Refused: results go to a folder or to s3://.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.root} can only be read: write to a folder or to s3://")

    def delete(self, key: str) -> None:
        """Refused, like `write`."""
        raise UsageError(f"{self.root} can only be read")

    def md5(self, info: ObjectInfo) -> str:
        """See `Store.md5`."""
        return content_md5(self.read(info.key))

    def uri(self, key: str) -> str:
        """See `Store.uri`."""
        return join(self.root, key)
