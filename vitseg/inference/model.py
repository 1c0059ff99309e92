"""The model of a job in this process: loaded once, onto this process's device."""

import functools
import threading
from pathlib import Path

from vitseg.errors import DataError
from vitseg.inference.device import own_device
from vitseg.inference.job import ModelRef
from vitseg.model.bundle import Bundle, load_bundle

_LOADING = threading.Lock()


def load_once(model: ModelRef) -> Bundle:
    """Return the bundle of a job, loaded by the first who asks.

    Raises:
        NotFoundError: its folder is not there, and it is in no registry.
        DataError: it is damaged, or not the one that was planned.
    """
    with _LOADING:  # two threads would load it twice
        return _loaded(model)


@functools.lru_cache(maxsize=2)
def _loaded(model: ModelRef) -> Bundle:
    bundle = load_bundle(_folder(model))
    if bundle.sha256 != model.sha256:
        raise DataError(f"the model in {model.folder} has sha256 {bundle.sha256}, but {model.sha256} was planned")
    bundle.model.to(own_device())
    return bundle


def _folder(model: ModelRef) -> Path:
    """Return where the bundle lies on this machine, which may be another than the one that planned."""
    folder = Path(model.folder)
    if model.version == "local" or folder.exists():
        return folder
    from vitseg.registry import versions  # MLflow takes a second to import, and most workers have the folder

    return versions.open_model(f"models:/{model.name}/{model.version}")[1]
