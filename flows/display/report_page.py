"""The report of a run: one self-contained HTML page, and the same pictures as PNG files beside it.

The page (template `report_page.html.j2`) needs no network, script or font: pictures are embedded, text is escaped,
and its content security policy forbids it to load anything. So it can be mailed, printed, or logged.
"""

import base64
import io
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from vitseg.labels import Label
from vitseg.storage import LocalStore

_OURS = re.compile(r"pictures/(chart|(validation|segmented)-\d+)-\d+(-[a-z0-9-]+)?\.png")


@dataclass(frozen=True)
class Headline:
    """One key number, ready to read: `Headline("Speed", "41", unit="images/s", note="two CPU cores")`."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Step:
    """One step of the pipeline: how long it took (seconds), what it made, and where that lies."""

    name: str
    seconds: float
    made: str
    address: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture, its title, and what a person who can't see it should know (`alt`; the title by default).

    `pixelated` keeps the edges of masks hard where the page enlarges them.
    """

    title: str
    image: Image.Image
    alt: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Strip:
    """Pictures of one photograph side by side: photo | truth | prediction, or photo | mask | overlay."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True)
class ClassScore:
    """One row of the class table: IoU in 0-1 (None: no pixels) and share of labeled pixels in 0-1."""

    label: Label
    iou: float | None
    share: float


@dataclass(frozen=True)
class Place:
    """Where something lies, or the command that shows it."""

    name: str
    address: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All that the page shows, in its order; empty parts are left out.

    `created` is shown as it is; equal reports give equal bytes. The first of `segmented` (or else of
    `validation`) stands at the top of the page. The white ground of `charts` turns dark with the page, so
    charts in class colors don't belong there: the table of `classes` draws each IoU as a bar.
    """

    title: str
    summary: str
    created: str = ""
    headlines: tuple[Headline, ...] = ()
    steps: tuple[Step, ...] = ()
    places: tuple[Place, ...] = ()
    charts: tuple[Picture, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    validation: tuple[Strip, ...] = ()
    segmented: tuple[Strip, ...] = ()
    machine: tuple[tuple[str, str], ...] = ()
    recipe: str = ""


def write_report(folder: Path, report: Report) -> Path:
    """Write `pictures/*.png` and then `report.html` into `folder`, and return the page's path.

    Each file is replaced atomically; pictures that an earlier, longer report left behind are removed. The
    page grows with its pictures: hand in what people need to see (about 500 pixels wide), not originals.

    Raises:
        StorageError: the folder can't be written.
    """
    files: dict[str, bytes] = {}

    def shown(stem: str, picture: Picture) -> dict[str, Any]:
        name = f"pictures/{stem}-{_slug(picture.title)}".rstrip("-") + ".png"
        files[name] = _png(picture.image)
        source = "data:image/png;base64," + base64.b64encode(files[name]).decode()
        return {"picture": picture, "source": source, "alt": picture.alt or picture.title}

    def strips(stem: str, items: tuple[Strip, ...]) -> list[dict[str, Any]]:
        return [
            {
                "strip": strip,
                "shown": [shown(f"{stem}-{i:02d}-{j:02d}", p) for j, p in enumerate(strip.pictures, 1)],
            }
            for i, strip in enumerate(items, 1)
        ]

    segmented, validation = strips("segmented", report.segmented), strips("validation", report.validation)
    page = _template().render(
        report=report,
        total=duration(sum(step.seconds for step in report.steps)),
        present=[row for row in report.classes if row.share > 0],
        hero=segmented.pop(0) if segmented else validation.pop(0) if validation else None,
        charts=[shown(f"chart-{i:02d}", picture) for i, picture in enumerate(report.charts, 1)],
        segmented=segmented,
        validation=validation,
    )
    store = LocalStore(folder)
    for name, png in files.items():
        store.write(name, png)
    store.write("report.html", page.encode())
    for stale in [info.key for info in store.list("pictures/") if _OURS.fullmatch(info.key)]:
        if stale not in files:
            store.delete(stale)
    return folder / "report.html"


def duration(seconds: float) -> str:
    """Write seconds for people: `0.4 s`, `42 s`, `2 min 05 s`, `1 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _slug(text: str) -> str:
    """Return a short file name part of lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _css_color(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return f"rgb({red:d} {green:d} {blue:d})"


def _breakable(address: str) -> Markup:
    """Let long addresses break after slashes and the like; what a reader copies stays the same."""
    return Markup("<wbr>").join(re.split(r"(?<=[/@=&?])(?!/)", address))


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration, css=_css_color, breakable=_breakable)
    return environment.from_string((resources.files("flows.display") / "report_page.html.j2").read_text("utf-8"))
