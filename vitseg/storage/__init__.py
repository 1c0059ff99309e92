"""Read, list and write objects in the same way in a folder, in S3 or behind any fsspec URL.

base.py        what every store can do, and how addresses are written
open.py        an address → its store
local.py       a folder
atomic.py      files of a folder that are written in one step
s3.py          a bucket
s3_errors.py   what a failed request means, and what to do
s3_client.py   its connections: boto3 for single requests, s3fs to read many objects at once
fsspec.py      any other address that fsspec can read, as a source
"""

from vitseg.storage.base import ObjectInfo, Store, as_prefix, content_md5, join, split_address, without_secrets
from vitseg.storage.local import LocalStore
from vitseg.storage.open import canonical, open_store

__all__ = [
    "LocalStore",
    "ObjectInfo",
    "Store",
    "as_prefix",
    "canonical",
    "content_md5",
    "join",
    "open_store",
    "split_address",
    "without_secrets",
]
