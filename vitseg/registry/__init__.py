"""The tracking server and the model registry: the only code that imports MLflow.

tracking.py   runs: parameters, metrics, pictures
delivery.py   a training's metrics on their way, so that a server that is slow or away holds up nobody
system_metrics.py   what the machine does while a run trains
versions.py   bundles become registered versions and come back, checked by their hash
review.py     what a person decides: list, show, compare, promote, reject, roll back
comparison.py two models on the same images: differences with intervals; gate.py the rules a version must keep
page.py       what a reviewer reads; examples.py the images worth a look
flavor.py     the former name of inference/pyfunc.py, which MLflow calls to load a version
"""
