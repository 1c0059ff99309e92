"""Pictures for people.

panels         photo | ground truth | prediction, sheets of several, the legend of their classes
charts         learning curves, the confusion matrix, IoU by class
contact_sheet  many named pictures in a grid
style          what all share: colors, spacing, font
"""
