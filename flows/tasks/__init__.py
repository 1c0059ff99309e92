"""Tasks of the flows, and where mapped tasks run.

runners            threads, processes, Dask or Ray
segment_chunks     the chunks of a segmentation job
plan_training      data, recipe and starting weights -> a job
run_training       a job -> trained ranks
other_nodes        the other nodes of a training, as flow runs
register_version   a trained bundle -> a registered version
"""

from typing import Literal

Runner = Literal["thread", "process", "dask", "ray"]
"""Where mapped tasks run."""
