"""Training: a job in a bucket, ranks that work on it, and the process group that runs them.

job.py         what is trained, on which data, into which run; lives in the bucket beside its checkpoints
launch.py      starts `torch.distributed.run` on the machines of nodes.py; agent.py ends it with its parent,
               network.py finds the way to other nodes
worker.py      what one rank runs; watchdog.py ends one that hangs, failure.py tells whose failure ended a job
loop.py        the training loop; progress.py what it measures and whom it tells, average.py the weights' average
initial.py     what a training starts from instead of chance (`--init`); hub.py fetches it from the Hugging Face hub
masked.py      the other task: pretraining by masked autoencoding; panels.py draws what it sees
optimizer.py   AdamW or Muon (muon.py), groups of parameters and the learning rate of each step
precision.py   in which numbers a forward pass computes
throughput.py  what is computed a second, against what the devices reach
recorder.py    rank 0's events: one line each on standard output (events.py), metrics and panels to the tracking server
"""
