"""Any address that fsspec can read (`gs://`, `az://`, `https://` …), as a store of sources."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from vitseg.errors import NotFoundError, StorageError, UsageError
from vitseg.storage import ObjectInfo, content_md5, join

_THREADS = 16


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
        names = ("ETag", "etag", "mtime", "updated", "Last-Modified", "size")
        tag = next((row[name] for name in names if row.get(name)), row.get("size"))
        return ObjectInfo(key, int(row.get("size") or 0), str(tag).strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`."""
        try:
            rows = self._fs.find(self._path, detail=True)
        except OSError as error:
            raise StorageError(f"can't list {self.root}: {error}") from error
        with ThreadPoolExecutor(_THREADS) as pool:
            for info in pool.map(self._info, pool.map(self._complete, rows.values())):
                if info.key.startswith(prefix):
                    yield info

    def _complete(self, row: dict[str, Any]) -> dict[str, Any]:
        # A web server lists names alone. What `stat` and `read_tagged` say of them must hold here, too.
        if row.get("size") is not None:
            return row
        try:
            return self._fs.info(row["name"])
        except OSError:
            return row

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
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """See `Store.read_tagged`: as good as fsspec can, for it gives both only one after the other."""
        path = f"{self._path}/{key}"
        try:
            self._fs.invalidate_cache(path)  # what was listed may be old
            # The tag first: should the content change in between, the old tag makes a later job look at it again.
            tag = self._info(self._fs.info(path)).etag
            return self._fs.cat_file(path), tag
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
