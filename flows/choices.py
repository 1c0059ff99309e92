"""The words that parameters of flows take: Prefect's UI offers them as a list, and the command line checks them first."""

from typing import Literal

Preset = Literal["tiny", "small", "base", "vit-base", "paper"]
Layout = Literal["auto", "cityscapes", "pairs", "folders", "images", "photos"]
Ids = Literal["train", "label"]
Picture = Literal["color", "overlay", "confidence"]
Start = Literal["chance", "champion"]
Runner = Literal["thread", "process", "dask", "ray"]
