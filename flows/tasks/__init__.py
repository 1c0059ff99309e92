"""What flows map over many workers, and where it runs.

runners            threads, processes, Dask or Ray
segment_chunks     the chunks of a segmentation job
register_version   a trained bundle becomes a version
other_nodes        the other nodes of a training, as flow runs
"""

from typing import Literal

Runner = Literal["thread", "process", "dask", "ray"]
"""Where mapped tasks run."""
