"""The demo's report: one self-contained HTML page, and its pictures as PNG files beside it.

The page (template `report_page.html.j2`) needs no network, script or font: pictures are embedded, text is escaped, and
its content security policy forbids to load anything. So it can be mailed, printed, or logged.
"""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from vitseg.labels import Label
from vitseg.metrics.seams import seam_text
from vitseg.registry.markdown import duration
from vitseg.storage import LocalStore

_OUR_PICTURES = re.compile(r"pictures/(chart|(validation|segmented)-\d+)-\d+(-[a-z0-9-]+)?\.png")


@dataclass(frozen=True)
class Picture:
    """A picture and its title. `pixelated` keeps the edges of masks sharp where the page enlarges them."""

    title: str
    image: Image.Image
    pixelated: bool = False


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one photograph side by side: photo | ground truth | prediction, or photo | mask | overlay."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class ClassScore:
    """A class with its IoU and its share of the labeled pixels, both 0–1."""

    label: Label
    iou: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows.

    The first row of `segmented` is at the top. On a dark page the white background of `charts` turns dark, so charts in
    class colors don't belong there: the table of `classes` draws each IoU as a bar.
    """

    created: str
    addresses: Mapping[str, str]
    """Of `scenes`, `shards`, `photographs`, `masks`, and of the stack's `home`."""
    seconds: Mapping[str, float]
    """How long each step took, by name."""
    results: Mapping[str, Mapping[str, Any]]
    """What the flows returned: `preprocess`, `train`, `evaluate`, `segment`."""
    masks: int
    parameters: int
    charts: tuple[Picture, ...]
    classes: tuple[ClassScore, ...]
    validation: tuple[PictureRow, ...]
    segmented: tuple[PictureRow, ...]
    environment: Mapping[str, str]
    recipe: str


def write_report(folder: Path, report: Report) -> Path:
    """Write `pictures/*.png` and then `report.html` into a folder, and return the page's path.

    Files are replaced atomically, equal reports give equal bytes, and pictures of an earlier report are removed. The page
    grows with its pictures: pass what people need to see (about 500 pixels wide), not originals.

    Raises:
        StorageError: the folder can't be written.
    """
    files: dict[str, bytes] = {}

    def embed(stem: str, pictures: tuple[Picture, ...]) -> list[dict[str, Any]]:
        embedded = []
        for number, picture in enumerate(pictures, 1):
            png = io.BytesIO()
            picture.image.save(png, "PNG")
            name = f"pictures/{stem}-{number:02d}-{_slug(picture.title)}".rstrip("-") + ".png"
            files[name] = png.getvalue()
            embedded.append({"picture": picture, "base64": base64.b64encode(png.getvalue()).decode()})
        return embedded

    def embed_rows(stem: str, rows: tuple[PictureRow, ...]) -> list[dict[str, Any]]:
        return [
            {"title": row.title, "pictures": embed(f"{stem}-{number:02d}", row.pictures)}
            for number, row in enumerate(rows, 1)
        ]

    ratios = report.results["evaluate"]["seam_ratio"]
    page = _template().render(
        report=report,
        **report.results,
        worst_seam=max((ratio or 0 for sides in ratios.values() for ratio in sides.values()), default=0),
        seams=seam_text(ratios, report.results["evaluate"]["seam_ratio_truth"]),
        charts=embed("chart", report.charts),
        segmented=embed_rows("segmented", report.segmented),
        validation=embed_rows("validation", report.validation),
    )
    store = LocalStore(folder)
    for name, png in files.items():
        store.write(name, png)
    store.write("report.html", page.encode())
    for info in list(store.list("pictures/")):
        if info.key not in files and _OUR_PICTURES.fullmatch(info.key):
            store.delete(info.key)
    return folder / "report.html"


def _slug(text: str) -> str:
    """Return a part of a file name: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _breakable(address: str) -> Markup:
    """Return an address that may break after slashes and the like; a copy of it stays the same."""
    return Markup("<wbr>").join(re.split(r"(?<=[/@=&?])(?!/)", address))


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        duration=duration, css=lambda color: "rgb({} {} {})".format(*color), breakable=_breakable
    )
    return environment.from_string((resources.files("flows.display") / "report_page.html.j2").read_text("utf-8"))
