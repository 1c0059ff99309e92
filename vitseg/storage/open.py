"""An address → the store that it names."""

from pathlib import Path
from urllib.parse import urlsplit

from vitseg.errors import UsageError
from vitseg.storage.base import Store
from vitseg.storage.local import LocalStore


def open_store(address: str | Path) -> Store:
    """Open the store at a local path, `file://`, `s3://` or any other fsspec URL.

    Raises:
        UsageError: the address can't be understood, or carries a secret.
    """
    text = str(address)
    if "://" not in text:
        return LocalStore(Path(text).expanduser())
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise UsageError("an address must not carry credentials: put them in the environment (AWS_ACCESS_KEY_ID …)")
    if any(word in parts.query.lower() for word in ("sig", "token", "credential")):
        raise UsageError("an address must not carry a signature or token: any reader of the log could use it")
    if parts.scheme == "file":
        return LocalStore(Path(parts.path))
    if parts.scheme == "s3":
        if not parts.netloc:
            raise UsageError(f"{text}: an s3 address names a bucket: s3://BUCKET/PREFIX")
        from vitseg.storage.s3 import S3Store

        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix)
    from vitseg.storage.fsspec import FsspecStore

    return FsspecStore(text)


def canonical(address: str | Path) -> str:
    """Return the one form of an address that is valid everywhere: `photos/` and `./photos` are one folder."""
    store = open_store(address)
    return str(store.folder.resolve()) if isinstance(store, LocalStore) else store.root
