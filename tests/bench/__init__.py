"""Measurements for `make bench`: each figure compares two sides that run in turn on the same machine.

Each part of `make bench ONLY=…` is a file. They share:

measure.py      rounds, medians, versions
rank.py         one rank of a timed training; bare_loop.py the loop it is compared with
launches.py     counts the operations of a training step
networks.py     trains one of the networks that are compared; unet.py one of them; patch_lines.py where their classes change
*_peer(s).py    other libraries that do the same
"""
