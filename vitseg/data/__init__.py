"""The way of the data, from source images to batches.

Writing:
    sources    what is there: images and labels of the four layouts, paired
    pairing    where photos and labels find each other by their names
    spill      tables on disk, for what is too much for memory: pairs and plans
    colors     color labels -> train ids
    plan       a deterministic list of shards, and the fingerprint of what they will hold
    samples    one source -> one sample: open, check, resize, encode
    shards     one part of the plan -> one tar; then the commit

Between the two:
    manifest   the file that makes a data set exist
    verify     reads everything back and names what is wrong

Reading:
    order      which sample comes when: the same for any number of ranks
    cache      shards on the local disk, checked
    index      where each sample lies inside a tar
    ahead      opens the shards that come next in the background
    loader     shards -> batches, exact and resumable

A source of one's own making:
    scene      how a generated street becomes a picture and its labels
    street     the things that stand in it
    synth      a whole data set of them, in the official layout
"""

from typing import Literal, get_args

Layout = Literal["auto", "cityscapes", "pairs", "folders", "images", "photos"]
LAYOUTS: tuple[str, ...] = get_args(Layout)[1:]
"""How photos and labels may lie in a source; `sources` describes each, and `auto` detects it."""
