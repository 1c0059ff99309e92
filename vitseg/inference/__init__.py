"""Batch segmentation: every image under an address gets a mask, every object a row.

    job.py        what a job is: addresses, model, options, and the names of its files
    plan.py       freeze the listing of the source into chunks; resume an unfinished job
    dry_run.py    what a job would do, and how long a sample of it takes
    chunk.py      segment one chunk: read ahead, predict in batches, write behind
    existing.py     which masks are there already and still hold
    objects.py      one object: read it, or write its mask; either gives its row
    images.py       bytes -> RGB image;  shrink.py  -> what the model takes
    photo.py        bytes of an image of any size -> rows
    model.py        the bundle, loaded once a process;  device.py  on which GPU
    answer.py       a batch of images -> what the model says of each
    predict.py      scores at the model's size -> class ids at the image's own
    upsample.py       the best class of every pixel between them
    tiles.py        an image at its own scale under sliding windows -> class ids
    stages.py       seconds by stage
    ledger.py     the listing and the rows of a chunk, as parquet
    commit.py     the commit that checks all chunks, and the summary;  sheet.py  the least confident images

`plan_job` → `segment_chunk(job, index)` for each index, in any order, on any engine → `commit_job`.
"""
