"""Odd data sets and odd photographs whose truth is known by construction, and what the product makes of them.

    containers.py    PNG, TIFF, BMP and PNM written byte by byte, with oddities that no library writes
    photographs.py   a picture → a file: container, depth, orientation, metadata
    damage.py        what happens to files: cut, zeroed, flipped, wrong checksums, bytes before and after
    class_lists.py   lists of classes, and pictures of their labels
    masks.py         a picture of labels → a mask file: ids, colors, gray, palettes, turned, lossy
    folders.py       how photographs and masks lie in folders, and what they are called
    product.py       runs the product, and watches that it stays quiet
    judge.py         truth and outcome → read right, told, refused though clear, or wrong
    __main__.py      `python -m tests.odd`: thousands of them
    test_odd.py      some of them, always the same

Nothing here uses the product's own code to make a file or to know what is in it. All generators take a `random.Random`:
in tests it is hypothesis's, in long runs it has a seed, by which each input can be made again.
"""
