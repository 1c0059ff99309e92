"""Objectives: everything in which trainings differ.

base.py            the interface: inputs, loss, counts, validation, panels, export
segmentation.py    labels, as classes or as colors (`model.target`)
masked_patches.py  `vitseg pretrain`: photographs alone, whose hidden patches are filled in
choose.py          the one place where a job gets its objective
"""
