"""How good masks are.

scores.py    a confusion matrix, and the scores of the Cityscapes benchmark that follow from it
seams.py     how much more often the class changes across the borders of patches than inside them
result.py    all that one evaluation of a model found
"""
