"""Files of a folder, each put in one step: a reader sees the old content or the new one, never a part."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

PART = ".vitseg-part-"
"""How the names of files begin that are not complete yet."""

# What os.link raises on exFAT, FUSE and others that have no hard links, or no more of them.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def tag_of(status: os.stat_result) -> str:
    """Return the etag of a file: modification time and size."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


@contextlib.contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Give a name beside `path` under which to write its content, to be renamed; a part that is left is removed."""
    part = path.with_name(f"{PART}{secrets.token_hex(8)}")
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def lock(file: FileIO | int, how: int) -> bool:
    """Lock a file that is open, by `flock`; return False where another process has it or there are no locks.

    Not by filelock, which locks files of its own and only exclusively: these locks are on the very file that is read or
    replaced, by any number of readers. The kernel releases them when the file is closed, however its process ends.
    """
    try:
        fcntl.flock(file, how)
    except OSError:
        return False
    return True


def put_file(path: Path, data: bytes | BinaryIO, *, if_absent: bool = False, if_match: str | None = None) -> bool:
    """Write into a part file beside the target, flush it to disk, then rename it. See `Store.write`.

    Returns:
        Whether it was put: not where `if_match` is given and the file at `path` is not the one with this tag.

    Raises:
        FileExistsError: `if_absent` is given and the name is taken.
        OSError: it failed in another way; nothing is left behind.
    """
    with part_of(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data.seek(0)
                shutil.copyfileobj(data, file)
            file.flush()
            os.fsync(file.fileno())
        if if_match is not None:
            return _replace(part, path, if_match)
        if not (if_absent and _link(part, path)):
            part.replace(path)
    return True


def _link(part: Path, path: Path) -> bool:
    # A link fails where the name is taken: the only atomic "create if absent". Without hard links, False tells the
    # caller to rename: two writers in the same instant may both win there.
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists") from error
        return False
    return True


def _replace(part: Path, path: Path, tag: str) -> bool:
    # The old file is the lock of its own replacement: no lock file stays in the folder. A writer that waited for the
    # lock while another one replaced the file holds a file that is no longer at this path.
    try:
        # NFS locks only what is open for writing. Without locks, two writers in the same instant may both win.
        with path.open("r+b" if os.access(path, os.W_OK) else "rb", buffering=0) as held:
            lock(held, fcntl.LOCK_EX)
            now = path.stat()
            if tag_of(now) != tag or not os.path.samestat(os.fstat(held.fileno()), now):
                return False
            part.replace(path)
    except FileNotFoundError:
        return False
    return True
