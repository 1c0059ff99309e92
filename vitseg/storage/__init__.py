"""Read, list and write objects alike, whether they lie in a folder, in S3 or behind any fsspec URL.

base.py      what every store can do, and how addresses are written
open.py      an address → its store
local.py     a folder; atomic.py puts a file in one step
s3.py        a bucket; s3_client.py holds its connections
fsspec.py    any other address that fsspec reads, as a source
"""

from vitseg.storage.base import ObjectInfo, Store, content_md5, join, without_secrets
from vitseg.storage.local import LocalStore
from vitseg.storage.open import canonical, open_store

__all__ = ["LocalStore", "ObjectInfo", "Store", "canonical", "content_md5", "join", "open_store", "without_secrets"]
