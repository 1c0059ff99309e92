"""Generated street scenes with labels: for the demo, the tests and the benches.

scene.py         how a street becomes a picture: camera, light, canvas, sky, ground
street.py        the things that stand in it: houses, trees, cars, persons
dataset.py       a whole data set of scenes, in the official Cityscapes layout
photographs.py   photographs without labels, of several sizes and formats
"""
