"""What `mlflow.pyfunc.load_model` serves for a registered version: the masks that `segment` would write.

The bundle is read; no code from the registry is run. The model computes on the processor.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitseg.images.resize import resize
from vitseg.inference.model import default_batch, forward, stack_planes
from vitseg.inference.upsample import upsample_colors, upsample_scores
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.precision import choose, time_forward

_CPU = torch.device("cpu")


class Predictor:
    """Masks, or images, for arrays of upright photographs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.precision = choose(_CPU, lambda: time_forward(bundle.model, bundle.image_size))

    def predict(self, data: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return train ids uint8 (B, H, W) for photographs uint8 (B, H, W, 3) of any one size.

        Of a model without classes: images uint8 (B, H, W, 3).
        """
        bundle, size, batch = self.bundle, data.shape[1:3], default_batch(_CPU, self.bundle.image_size)
        found = np.empty((len(data), *size) if bundle.classes else (len(data), *size, 3), np.uint8)
        for start in range(0, len(data), batch):
            fitted = stack_planes(resize(photo, bundle.image_size) for photo in data[start : start + batch])
            for place, output in enumerate(forward(bundle, fitted, _CPU, self.precision), start=start):
                own = upsample_scores(output, size).ids if bundle.classes else upsample_colors(output, size).colors
                found[place] = own
        return found


def load_predictor(path: str, model_config: dict[str, Any] | None = None) -> Predictor:
    """Load the bundle among the artifacts of a version, under `path`."""
    folder = next(Path(path).rglob("model.safetensors"), Path(path) / "model.safetensors").parent
    return Predictor(load_bundle(folder))


_load_pyfunc = load_predictor  # the name that MLflow looks for
