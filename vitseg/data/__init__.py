"""From source images to batches.

Writing:
    sources             what a source holds: images and labels in one of five layouts, paired
    layouts             which layout a source has, or what it lacks
    pairing             which of its objects belong together
    pairs               what makes an image a pair of photograph and label
    temporary_database  tables on disk, for listings and plans that are too large for memory
    plan                a deterministic list of shards, and the fingerprint of what they will hold
    samples             one source → one sample: decode, check, resize, encode
    label_orientation   a label, turned as its photograph was
    label_file          what its file says beside its pixels
    label_image         what a label image says: pixels → train ids
    label_values        the values of a gray or palette label → train ids
    color_labels        colors → train ids
    findings            what labels hold that no class explains, counted and told
    shards              one shard of the plan → one tar
    commit              all shards of a plan → a data set

Between the two:
    manifest            the file that makes a data set exist
    verify              reads everything back and reports what is wrong

Reading:
    order               which sample comes when, the same for any number of ranks
    shard_cache         shards on the local disk, checked
    features            what an encoder that does not learn says of the photographs, kept beside the shards
    tar_index           where each sample lies inside a tar
    prefetch            opens the shards that come next, in the background
    loader              shards → batches, exact and resumable
    augment             random changes of a batch: scale, crop, colors
"""

from typing import Literal, get_args

Layout = Literal["auto", "cityscapes", "pairs", "folders", "images", "photos"]
LAYOUTS: tuple[str, ...] = get_args(Layout)[1:]
"""How photos and labels may lie in a source; `sources` describes each, and `auto` detects it."""
