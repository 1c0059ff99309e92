"""An address → the store that it names.

Every character of an address means itself, but in these places; what can't be meant so is a UsageError:

- `~` or `~USER` at the beginning of a path is a home, as in a shell; a path is never a URL unless it begins with `SCHEME://`.
- Capitals in a scheme are small letters, and `s3a` is `s3`.
- In `file://` addresses, percent escapes stand for characters.
- One slash at the end of an address may be there or not.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from vitseg.errors import UsageError
from vitseg.storage.base import Store
from vitseg.storage.local import LocalStore

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HALF_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?!//)")
_NOT_FSSPEC = {"s3", "models", "runs"}
_BUCKET = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00|%2[Ff]")
_SECRET = re.compile(r"[?&][^=&]*(sig|token|credential)[^=&]*=", re.IGNORECASE)


def open_store(address: str | Path) -> Store:
    """Open the store at a local path, `file://`, `s3://` or any other fsspec URL.

    Raises:
        UsageError: the address can't be understood, or carries a secret.
    """
    text = str(address)
    if not text or "\0" in text:
        raise UsageError(
            "an address is empty: name a folder or an s3:// address" if not text else "an address holds a NUL"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:  # servers and manifests could not hold it
        raise UsageError(f"{text!a} is not UTF-8: rename the folder") from error
    match = _URL.fullmatch(text)
    if not match:
        _refuse_half_url(text)
        # `Path.expanduser` would fail on the name of a folder that begins with ~ and is no user.
        return LocalStore(Path(os.path.expanduser(text)))  # noqa: PTH111
    scheme, place = match[1].lower(), match[2]
    if scheme in ("file", "local"):
        return LocalStore(_local_path(text, place))
    if scheme in ("s3", "s3a"):
        from vitseg.storage.s3 import S3Store

        return S3Store(*_bucket_and_prefix(text, place))
    host = place.partition("/")[0]
    if ":" in host.rpartition("@")[0] or ("@" in host and scheme in ("http", "https")):
        raise UsageError("an address must not carry credentials: put them in the environment")
    if _SECRET.search(place):
        raise UsageError("an address must not carry a signature or token: any reader of the log could use it")
    from vitseg.storage.fsspec import FsspecStore

    return FsspecStore(f"{scheme}://{place}")


def canonical(address: str | Path) -> str:
    """Return the one form of an address that is valid everywhere: `photos/` and `./photos` are one folder."""
    store = open_store(address)
    return os.path.realpath(store.folder) if isinstance(store, LocalStore) else store.root


def _refuse_half_url(text: str) -> None:
    """Refuse `s3:/bucket` or `file:photos`, which nobody means as the name of a folder."""
    if match := _HALF_URL.match(text):
        from fsspec import available_protocols

        scheme = match[1].lower()
        if scheme in _NOT_FSSPEC or scheme in available_protocols():
            raise UsageError(f"{text}: write {scheme}://… for an address, or ./{text} for a folder of this name")


def _local_path(text: str, place: str) -> Path:
    host, slash, path = place.partition("/")
    if not slash or host.lower() not in ("", "localhost"):
        raise UsageError(f"{text}: a file:// address has the whole path after three slashes: file:///PATH")
    escaped = os.fsencode(path)
    if _BAD_ESCAPE.search(escaped):
        raise UsageError(f"{text}: in a file:// address, % begins an escape: write %25 for the character itself")
    return Path("/" + os.fsdecode(unquote_to_bytes(escaped)))


def _bucket_and_prefix(text: str, place: str) -> tuple[str, str]:
    bucket, _, prefix = place.partition("/")
    if "@" in bucket or (":" in bucket and "@" in prefix):
        raise UsageError("an address must not carry credentials: put them in the environment (AWS_ACCESS_KEY_ID …)")
    if not bucket:
        raise UsageError(f"{text}: an s3 address names a bucket: s3://BUCKET/PREFIX")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UsageError(f"{text}: S3 allows no bucket of the name {bucket!r}: write s3://BUCKET/PREFIX")
    if {".", ".."} & set(prefix.split("/")):
        raise UsageError(f"{text}: an S3 prefix has no . or .. between slashes: write the prefix itself")
    return bucket, prefix
