"""Pictures for people.

panels   photo | ground truth | prediction, sheets of several, the legend of their classes, contact sheets
charts   learning curves, the confusion matrix, IoU by class
style    what all share: colors, spacing, font
"""
