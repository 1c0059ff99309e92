"""What `mlflow.pyfunc.load_model` calls for a registered version: reads the bundle, runs no code from the registry."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vitseg.model.bundle import Bundle, load_bundle


class Predictor:
    """Masks, or images, for arrays of images."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, data: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return train ids uint8 (B, H, W) for images uint8 (B, H, W, 3) of any one size.

        Of a model without classes: images uint8 (B, H, W, 3).
        """
        images = torch.from_numpy(np.ascontiguousarray(data)).permute(0, 3, 1, 2)
        size = images.shape[-2:]
        fitted = F.interpolate(
            images.float(), self.bundle.image_size, mode="bilinear", antialias=True, align_corners=False
        )
        fitted = fitted.round().clamp(0, 255).to(torch.uint8)
        if not self.bundle.classes:
            colors = F.interpolate(
                self.bundle.colors(fitted), size, mode="bicubic", antialias=True, align_corners=False
            )
            return (colors.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        scores = self.bundle.predict(fitted)
        resized = F.interpolate(scores, size, mode="bilinear", align_corners=False)
        return resized.argmax(1).to(torch.uint8).numpy()


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Predictor:
    folder = next(Path(path).rglob("model.safetensors"), Path(path) / "model.safetensors").parent
    return Predictor(load_bundle(folder))
