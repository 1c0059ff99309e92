"""Batch segmentation: every image under an address gets a mask, every object a row.

`plan_job` → `segment_chunk(job, index)` for each index, in any order, on any engine → `commit_job`. In that order:

    job.py            what a job is: addresses, model, options, and the names of its files
    plan.py           freeze the listing of the source into chunks; resume an unfinished job
    chunk.py          segment one chunk: read ahead, predict in batches, write behind
      context.py        what all objects of a chunk share, and seconds by stage
      reusable_mask.py  whether an object's mask is there already and still holds
      read.py           an object → a task for the model
      predict.py        a batch of tasks → predictions
        model.py          the bundle, loaded once a process, on its GPU
        gpu_stream.py     on a GPU: a batch is launched while the one before it is collected
        upsample.py       scores at the model's size → class ids at the image's own
        tiles.py          an image at its own scale under sliding windows → class ids
      write.py          a prediction → mask and pictures
    ledger.py         the listing and the rows of a chunk, as parquet
    commit.py         check that all chunks are complete, and write the summary
    contact_sheet.py  the images that the model is least sure of

    dry_run.py        what a job would do, and how long a sample of it takes
    pyfunc.py         what MLflow serves for a registered version: the same masks
"""
