"""All errors that vitseg raises on purpose, as one tree.

    VitsegError            its message is one clear line; the command exits with `exit_code`
    ├── UsageError         a wrong option, recipe, layout or address (exit code 2)
    │   └── UnrelatedClassesError  a model and a data set without a class in common
    ├── NotFoundError      a path, bucket, data set, model or job that does not exist
    ├── AccessError        missing, wrong or insufficient credentials
    ├── StorageError       a store failed after its retries
    │   ├── StoreFullError a store has no space left: another try would not help
    │   └── NameTakenError a folder lies where a file should, or a file where a folder should
    ├── DataError          a corrupt or contradictory data set, bundle or checkpoint
    │   ├── SampleError    an unusable image or label: a row with a reason, the job continues
    │   └── EtagError      an etag that was taken for an MD5 is none: contents have to be hashed
    ├── TrainingError      a rank failed, or the loss is not finite
    │   └── RankLostError  a rank died or hung: another try continues from the last checkpoint
    └── RegistryError      the registry refused, or returned something else than it was given

Each message says what is wrong and what to do about it. Any other exception is a bug of ours and keeps its
traceback.
"""

import errno
import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class VitsegError(Exception):
    """Base of all errors that are meant for users."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message as one line that any log can store: names in it may hold line ends, and bytes that are no UTF-8."""
        return printable(super().__str__())


class UsageError(VitsegError):
    """The command, recipe or address is wrong; nothing was started."""

    exit_code = 2


class UnrelatedClassesError(UsageError):
    """A model and a data set have no class in common: there is nothing to measure."""


class NotFoundError(VitsegError):
    """Something that the user named does not exist."""


class AccessError(VitsegError):
    """A store or server refuses these credentials."""


class StorageError(VitsegError):
    """A store failed despite retries."""


class StoreFullError(StorageError):
    """A store has no space left: its disk is full, or a quota is used up."""


class NameTakenError(StorageError):
    """A folder lies where a file should, or a file where a folder should: unlike S3, a file system can't hold both."""


class DataError(VitsegError):
    """A manifest, shard or bundle is corrupt or contradicts itself."""


class SampleError(DataError):
    """One image or label can't be used; the job continues without it."""


class EtagError(DataError):
    """An object's etag was taken for the MD5 of its content and is not: the plan has to be made anew, from contents."""


class TrainingError(VitsegError):
    """Training stopped before its end."""


class RankLostError(TrainingError):
    """A rank was killed, hung or failed unexpectedly: another try may succeed."""


class RegistryError(VitsegError):
    """The model registry refused, or a check of what it holds failed."""


def printable(text: str) -> str:
    r"""Return text with escapes, such as `\n`, for line ends, control characters and bytes that are no UTF-8."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def write_error(error: OSError, uri: str) -> VitsegError:
    """Return the error for a failed write to a folder: another try helps only with a plain `StorageError`."""
    text = f"can't write {uri}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(f"{text}: make room there, then start again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return AccessError(f"{text}: let this user write there, or choose another place")
    return StorageError(text)
