"""Every error that vitseg raises on purpose, as one tree.

    VitsegError            one clear line for a person; the command exits with `exit_code`
    ├── UsageError         a wrong option, recipe key, layout or address (exit code 2)
    ├── NotFoundError      a path, bucket, data set, model or job that is not there
    ├── AccessError        credentials are missing, wrong, or don't allow it
    ├── StorageError       a store failed after its retries
    │   ├── StoreFullError a store has no room left: trying again does not help
    │   └── NameTakenError a folder lies where a file should, or a file where a folder should
    ├── DataError          a data set or bundle that contradicts itself
    │   └── SampleError    one image or label that can't be used: becomes a row with a reason
    ├── TrainingError      a rank failed, or the loss is no longer a number
    │   └── RankLostError  a rank ended without a word: worth another try from the last checkpoint
    └── RegistryError      the registry refused, or what it returned isn't what went in

The text of each says what is wrong and what to do about it. Anything else that escapes is a bug of ours
and keeps its traceback.
"""

import errno


class VitsegError(Exception):
    """Base of all errors that are meant to be read by a person."""

    exit_code = 1


class UsageError(VitsegError):
    """The command, recipe or address is wrong; nothing was started."""

    exit_code = 2


class NotFoundError(VitsegError):
    """Something that was named does not exist."""


class AccessError(VitsegError):
    """The store or server refuses these credentials."""


class StorageError(VitsegError):
    """A store failed in a way that retries did not mend."""


class StoreFullError(StorageError):
    """A store has no room left: its disk is full, or a quota is used up."""


class NameTakenError(StorageError):
    """A folder lies where a file should, or a file where a folder should: S3 has room for both, a folder has not."""


class DataError(VitsegError):
    """A manifest, shard or bundle is corrupt or contradicts itself."""


class SampleError(DataError):
    """One image or label can't be used; the job goes on without it."""


class TrainingError(VitsegError):
    """Training stopped before its end."""


class RankLostError(TrainingError):
    """A rank was killed, hung, or failed in a way that nobody expected: another try may go well."""


class RegistryError(VitsegError):
    """The model registry refused, or a check of what it holds failed."""


def write_error(error: OSError, uri: str) -> VitsegError:
    """Return what a failed write to a folder means: what stays wrong until somebody acts is told from what may pass."""
    text = f"can't write {uri}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(f"{text}: make room there, then start again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return AccessError(f"{text}: let this user write there, or choose another place")
    return StorageError(text)
