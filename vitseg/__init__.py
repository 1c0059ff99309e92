"""Convolution-free Vision Transformers for segmentation, as a batch pipeline.

Read the modules in the order of the data:

    0  errors, labels, class_change, config (recipe, recipes, architecture, old_keys), json_input, bounded_map,
       storage, images, dist, device_copy, cuda_recording, precision, home, origin, child_processes, git_commit
    1  data       sources → plan → shards → exact batches
       model      patches → encoder → decoder → pixels; bundle
       synth      generated street scenes
       losses, metrics, masks, pictures                             siblings of data and model
    2  evaluation, checkpoint
       registry   MLflow: runs and versions
    3  training   a job, its ranks and its loop
       inference  a bucket of photographs → masks and a ledger
    4  flows/     Prefect flows, the command line and the embedded servers: not part of this package

A module imports lower floors only; `tests/test_architecture.py` holds everyone to it.
"""

__version__ = "0.1.0"
