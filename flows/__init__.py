"""Prefect flows, one file each, and what runs them: the top floor, where everything is wired together.

preprocess    photographs with labels → shards
pretrain      photographs without labels → an encoder to start from
train         shards → a registered version; train_node: one more node for it
evaluate      a version on a data set → metrics; compare: two versions on the same images
segment       a bucket of photographs → masks
retrain       new data → a new version, up for review: what a schedule runs
assess        a version against the gate and the champion; review: a person decides in a form
demo          all of it on generated street scenes

cli/          the command line: imports flows, and all below
tasks/        what flows map over workers
display/      what a person sees meanwhile: progress, tables, reports
stack/        the servers of this machine, and which servers a command uses
"""
