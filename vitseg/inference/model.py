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
        NotFoundError: its folder is not there.
        DataError: it is damaged, or not the one that was planned.
    """
    with _LOADING:  # two threads would load it twice
        return _loaded(model.folder, model.sha256)


@functools.lru_cache(maxsize=2)
def _loaded(folder: str, sha256: str) -> Bundle:
    bundle = load_bundle(Path(folder))
    if bundle.sha256 != sha256:
        raise DataError(f"the model in {folder} has sha256 {bundle.sha256}, but {sha256} was planned")
    bundle.model.to(own_device())
    return bundle
