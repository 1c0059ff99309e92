"""Measurements for `make bench`: each figure compares two sides that run in turn on the same machine.

measure.py      rounds, medians, versions; one file for each part of `make bench ONLY=…`
rank.py         what one rank of the train part runs
"""
