"""Any address that fsspec can read (`gs://`, `az://`, `https://` …), as a store of sources."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import fsspec

from vitseg.bounded_map import bounded_map
from vitseg.errors import StorageError, UsageError
from vitseg.storage.base import ObjectInfo, Store, as_prefix, reading, reason, without_secrets

_AHEAD = 16  # objects that are asked for at once
_ERRORS = (OSError, aiohttp.ClientError)  # aiohttp's, for a web server's 403 or 500, are no OSErrors
_NOT_IN_PATH = re.compile(r"[?#]|/\.\.(/|$)")  # of a web address


class FsspecStore(Store):
    """Reads and lists; it does not write."""

    def __init__(self, address: str) -> None:
        self.root = address.removesuffix("/")
        self._web = self.root.startswith(("http://", "https://"))
        if self.root.endswith("/") or "::" in self.root or (self._web and _NOT_IN_PATH.search(self.root)):
            why = (
                "write %3F and %23 for ? and # in names, and no .." if self._web else "no name may be empty or have ::"
            )
            raise UsageError(f"{without_secrets(address)} can't be read as it is written: {why}")
        try:
            self._fs, self._path = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError, TypeError, *_ERRORS) as error:  # some file systems connect at once
            raise UsageError(f"{without_secrets(address)}: {reason(error)}") from error
        names_account = "@" in self.root.split("/")[2]  # abfs://CONTAINER@ACCOUNT/… is read as CONTAINER/…
        if not names_account and not self.root.endswith(self._path.lstrip("/")):
            shown = without_secrets(address)
            raise UsageError(f"{shown} can't be read as it is written: fsspec takes it for {self._path}")

    def _key(self, row: dict[str, Any]) -> str:
        return str(row["name"]).removeprefix(self._path).removeprefix("/")

    def _info(self, row: dict[str, Any]) -> ObjectInfo:
        names = ("ETag", "etag", "mtime", "updated", "Last-Modified")
        tag = next((row[name] for name in names if row.get(name)), row.get("size"))
        return ObjectInfo(self._key(row), int(row.get("size") or 0), str(tag).strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            rows = bounded_map(lambda row: pool.submit(self._complete, row), self._rows(prefix), 2 * _AHEAD)
            yield from (self._info(complete.result()) for _, complete in rows)

    def _rows(self, prefix: str) -> Iterator[dict[str, Any]]:
        # Neither fsspec's `find`, which holds all names before it returns the first, nor its `walk`: both silently
        # leave out what can't be listed.
        waiting = [self._path]
        while waiting:
            folder = waiting.pop()
            rows = self._ls(folder)
            folders = []
            for name, row in sorted(rows.items()):
                key = self._key(row)
                inside = f"{key.rstrip('/')}/"
                if row["type"] != "directory":
                    if key.startswith(prefix):
                        yield row
                elif name != folder.rstrip("/") and inside.startswith(prefix[: len(inside)]):
                    folders.append(name)
            waiting += reversed(folders)

    def _ls(self, folder: str) -> dict[str, dict[str, Any]]:
        try:
            rows = self._fs.ls(folder, detail=True)
            self._fs.invalidate_cache(folder)  # else the next listing would be this one
        except (FileNotFoundError, NotADirectoryError):
            return {}  # what does not exist holds nothing
        except _ERRORS as error:
            raise StorageError(f"can't list {without_secrets(folder)}: {reason(error)}") from error
        # Of a single object, some list the object itself. Pages link to themselves, sorted, and to folders above.
        rows = [row for row in rows if str(row["name"]).startswith(as_prefix(self._path))]
        if self._web:
            rows = [{**row, "name": row["name"].replace("/./", "/")} for row in rows]
            rows = [row for row in rows if not _NOT_IN_PATH.search(row["name"])]
        rows = sorted(rows, key=lambda row: row["type"] == "directory")  # of one name, the folder counts
        return {str(row["name"]).rstrip("/"): row for row in rows}

    def _complete(self, row: dict[str, Any]) -> dict[str, Any]:
        # A web server lists names alone; size and etag have to be those of `stat` and `read_tagged`.
        if row.get("size") is not None:
            return row
        try:
            return self._fs.info(row["name"])
        except _ERRORS:
            return row

    def stat(self, key: str) -> ObjectInfo | None:
        """See `Store.stat`; a page of a web server is none, for it sends one for each folder."""
        try:
            row = self._fs.info(f"{self._path}/{key}")
            return self._info(row) if row["type"] == "file" and row.get("mimetype") != "text/html" else None
        except FileNotFoundError:
            return None
        except _ERRORS as error:
            raise StorageError(f"can't ask for {self.uri(key)}: {reason(error)}") from error

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """See `Store.read_tagged`; fsspec returns content and etag only one after the other."""
        path = f"{self._path}/{key}"
        with reading(self.uri(key), _ERRORS):
            self._fs.invalidate_cache(path)  # the listing may be old
            # The tag first: if the content changes in between, the old tag makes a later job read it again.
            tag = self._info(self._fs.info(path)).etag
            return self._fs.cat_file(path), tag

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[bytes, str]]:
        """See `Store.read_many`."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            for _, content in bounded_map(lambda key: pool.submit(self.read_tagged, key), keys, _AHEAD):
                yield content.result()

    def read_start(self, key: str, size: int) -> bytes:
        """See `Store.read_start`: a web server without ranges sends all."""
        path = f"{self._path}/{key}"
        with reading(self.uri(key), _ERRORS):
            try:
                return self._fs.cat_file(path, start=0, end=size)[:size]
            except _ERRORS:
                if self._fs.info(path).get("size") == 0:  # to ask for its first byte is an error on many servers
                    return b""
                raise

    def write(self, *_: Any, **__: Any) -> bool:
        """Refuse, with a UsageError: results go to a folder or to s3://."""
        raise UsageError(f"{self.root} can only be read: write to a folder or to s3://")

    def delete(self, key: str) -> None:
        """Refuse, like `write`."""
        raise UsageError(f"{self.root} can only be read")
