"""Where vitseg keeps its state on this machine: servers, locks, caches."""

import os
from pathlib import Path


def home() -> Path:
    """Return `VITSEG_HOME`, by default `.vitseg/` in the current folder."""
    return Path(os.environ.get("VITSEG_HOME") or ".vitseg").absolute()
