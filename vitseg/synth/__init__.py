"""Generated street scenes with labels: for the demo, the tests and the benches.

dataset.py    whole data sets: scenes in the official Cityscapes layout, photographs without labels
scene.py      one scene: what stands where, in which light
objects.py    what stands there: houses, trees, cars, persons, lamps
canvas.py     how it becomes a picture: camera, light, polygons, sky, ground, lens
"""
