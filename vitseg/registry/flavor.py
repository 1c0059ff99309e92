"""The former place of `vitseg.inference.pyfunc`: MLflow looks here for the loader of versions registered before it moved."""

import importlib

_load_pyfunc = importlib.import_module("vitseg.inference.pyfunc").load_predictor
