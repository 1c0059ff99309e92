"""Batch segmentation: every image under an address gets a mask, every object a row.

    job.py        what a job is: addresses, model, options, and the names of its files
    plan.py       freeze the listing of the source into chunks; resume an unfinished job; dry run
    images.py     bytes -> RGB image
    predict.py    image -> class ids at the image's own size, in bounded memory
    existing.py   which masks are there already and still hold
    objects.py    one object: read it, or write its mask; either gives its row
    chunk.py      segment one chunk: read ahead, predict in batches, write behind
    ledger.py     the rows of a chunk as parquet; the commit that checks them all

`plan_job` → `segment_chunk(job, index)` for each index, in any order, on any engine → `commit_job`.
"""
