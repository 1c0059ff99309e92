"""Training: a job in a bucket, ranks that work on it, and the process group that runs them.

job.py              what is trained, on which data, into which run; lives in the bucket beside its checkpoints
plan.py             refuses what can't be trained
batch_size.py       `data.batch_size=auto`: what fits a device and fills it
launch.py           starts `torch.distributed.run` on the machines of nodes.py; agent.py ends it with its parent
worker.py           what one rank runs; watchdog.py ends one that hangs
rank_reports.py     the lines by which ranks report to the launcher, and whose failure ended a job
loop.py             the training loop; step.py takes one optimizer step, resume.py goes on from a checkpoint
cuda_graph.py       a step's forward and backward pass, launched as one on GPUs
objectives/         everything in which trainings differ: inputs, loss, validation, panels, export
progress.py         steps, history, the best epoch, speed and the time budget
start_address.py    reads the weights to start from (`--init`); hugging_face.py fetches them from the hub
start.py            what such weights decide; initial_weights.py fits them to a job's network
features.py         features of a frozen encoder, computed once by all ranks
optimizer.py        AdamW or Muon (muon.py), the learning rate of each step, and the weights' moving average
precision.py        what a job computes in, chosen when it begins
throughput.py       FLOP/s of a training, against what the devices reach
logger.py           what the loop reports to; on rank 0 to the launcher and the tracking server
"""
