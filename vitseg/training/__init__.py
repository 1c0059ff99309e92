"""Training: a job in a bucket, ranks that work on it, and the process group that runs them.

job.py         what is trained, on which data, into which run; lives in the bucket beside its checkpoints
launch.py      starts `torch.distributed.run` and ends it with its parent
worker.py      what one rank runs
loop.py        the training loop
initial.py     what a training starts from instead of chance (`--init`); hub.py fetches it from the Hugging Face hub
masked.py      the other task: pretraining by masked autoencoding; panels.py draws what it sees
optimiser.py   AdamW or Muon, groups of parameters and the learning rate of each step
throughput.py  what is computed a second, against what the devices reach
recorder.py    rank 0's events: one line each on standard output, metrics and panels to the tracking server
"""
