"""The page that a reviewer decides by: verdict, comparison, pictures, commands, data, making, limits, in Markdown.

It is the description of a version, for that is all that MLflow's page of a version shows.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitseg.registry.comparison import Difference, Result
from vitseg.registry.gate import Ruling, passed
from vitseg.registry.promotion import command
from vitseg.registry.provenance import Record
from vitseg.registry.training_summary import MAX_PAGE
from vitseg.registry.versions import Version

_TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
_TRAINED = "\n\n# As trained\n\n"  # what comes before it is the last review's
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")
SPACE = "&ensp;"
"""Pads the cells of tables: MLflow leaves no room between columns."""
_FEW_IMAGES = 10
_MOST_WORDS = 20
_ROOM_FOR_TRAINED = 300
_ROOM_FOR_A_LINE = 80
_WIDE = 0.02


@dataclass(frozen=True)
class Assessment:
    """What a review page tells of one version; `champion`, `beside` and `rows` are empty where there is no champion."""

    candidate: Version
    champion: Version | None
    rulings: tuple[Ruling, ...]
    rows: Mapping[str, Difference]
    """Differences of champion (A) and candidate (B), by metric."""
    found: Result
    """How the candidate did."""
    beside: Result | None
    """How the champion did."""
    where: str
    """Split and address of the images."""
    holdout: str
    """Their digest."""
    record: Record | None = None
    """How the candidate came to be; None: it does not say."""
    before: Record | None = None
    """How the champion came to be."""
    picture: str = ""
    """Address of the examples; "": there are none."""
    approved: str = ""
    """Name of the model that it is promoted to, where that is another one."""


def review_page(of: Assessment) -> str:
    """Return the page; what an earlier review put before the version's own description is replaced.

    MLflow keeps 5000 characters: of many classes, those that changed most are shown, and the version's own description is
    cut off at its end.
    """
    verdict = "passed" if passed(of.rulings) else "FAILED"
    against = f"against the champion, {of.champion.uri}" if of.champion else "there is no champion yet: floors alone"
    head = [
        f"# Gate {verdict}",
        f"Measured on {of.found.samples} images, {of.where} (holdout `{of.holdout}`); {against}.",
        "",
        *_table(["rule", "wanted", "found", ""]),
        *(_row([rule.rule, rule.wanted, rule.found, "passed" if rule.passed else "**failed**"]) for rule in of.rulings),
        "",
    ]
    tail = [
        *([f"![images worth a look]({of.picture})", ""] if of.picture else []),
        *_commands(of),
        *(_data(of.record, of.before) if of.record else []),
        *(_making(of.record, of.candidate) if of.record else []),
        *_limits(of),
    ]
    trained = of.candidate.description.rpartition(_TRAINED)[2]
    room = MAX_PAGE - len("\n".join([*head, *tail])) - len(_TRAINED) - min(len(trained), _ROOM_FOR_TRAINED)
    page = "\n".join([*head, *_comparison(of, room), *tail]).rstrip() + _TRAINED + trained
    return page if len(page) <= MAX_PAGE else page[:MAX_PAGE].rpartition("\n")[0]


def for_other_pages(page: str, uri: str, server: str) -> str:
    """Return the review of a page as others than MLflow show it: a link to MLflow instead of its pictures, no odd spaces.

    Args:
        page: a version's description.
        uri: `models:/NAME/VERSION`.
        server: address of MLflow; where that is a database, there is nothing to link to.
    """
    text = _PICTURE.sub("", page.rpartition(_TRAINED)[0] or page).replace(SPACE, "")
    if not server.startswith("http"):
        return text
    name, _, version = uri.removeprefix("models:/").partition("/")
    link = f"{server.rstrip('/')}/?workflowType=machine_learning#/models/{name}/versions/{version}"
    return f"[{uri} in MLflow, with pictures]({link})\n\n{text}"


def _comparison(of: Assessment, room: int) -> list[str]:
    """Return the table of champion and version; of the classes those that fit into `room` characters."""
    if not of.rows or of.beside is None:
        return []
    lines = ["Beside the champion, by IoU of each class (bold: more than chance explains):", ""]
    lines += _table(["", "champion", "this version", "Δ", "95 % interval"])
    lines += [_difference(title, of.rows[name]) for name, title in _TITLES.items() if _is_known(of.rows.get(name))]
    for title, before, after in (
        ("seam ratio, worst", of.beside.worst_seam, of.found.worst_seam),
        ("images/s", of.beside.images_per_second, of.found.images_per_second),
    ):
        lines.append(_row([title, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", ""]))
    classes = {name: row for name, row in of.rows.items() if name not in _TITLES and _is_known(row)}
    words = {name: _difference(name.removeprefix("iou/"), row) for name, row in classes.items()}
    room -= len("\n".join(lines)) + 2 * _ROOM_FOR_A_LINE
    shown = set()
    for name in sorted(classes, key=lambda name: (not classes[name].sure, -abs(classes[name].delta or 0))):
        room -= len(words[name]) + 1
        if room > 0:
            shown.add(name)
    lines += [words[name] for name in words if name in shown]
    if len(shown) < len(words):
        lines += [
            "",
            f"{len(words) - len(shown)} more classes have no room here: `vitseg registry compare` shows them.",
        ]
    return [*lines, ""]


def _is_known(row: Difference | None) -> bool:
    return row is not None and row.delta is not None


def _difference(title: str, row: Difference) -> str:
    mark = "**" if row.sure else ""
    return _row(
        [title, f"{row.a:.3f}", f"{row.b:.3f}", f"{mark}{row.delta:+.3f}{mark}", f"{row.low:+.3f} to {row.high:+.3f}"]
    )


def _commands(of: Assessment) -> list[str]:
    who = "--reviewer YOU --reason WHY"
    commands = [
        f"{command('promote', of.candidate, of.approved)} {who}",
        f"{command('reject', of.candidate)} {who}",
        *([f"vitseg registry rollback --name {of.champion.name} {who}"] if of.champion else []),
    ]
    return ["Decide:", "", *(f"    {line}" for line in commands), ""]


def _data(record: Record, before: Record | None) -> list[str]:
    known = before.splits if before else {}
    same = before is not None and before.fingerprint == record.fingerprint
    lines = ["# Data", f"Fingerprint `{record.fingerprint[:16]}`" + (", the champion's too." if same else "."), ""]
    lines += _table(["split", "images", "champion's", "digest", ""])
    for name in [*record.splits, *(gone for gone in known if gone not in record.splits)]:
        ours, theirs = record.splits.get(name), known.get(name)
        equal = "" if before is None else ("the same" if ours and theirs and ours.digest == theirs.digest else "new")
        counts = [f"{split.samples:,}" if split else "–" for split in (ours, theirs)]
        lines.append(_row([name, *counts, f"`{ours.digest if ours else '–'}`", equal]))
    return [*lines, "", *_shares(record, None if same else before)]


def _shares(record: Record, before: Record | None) -> list[str]:
    """Say how much of the labeled pixels each class has, and how that differs from the champion's data."""
    if not record.classes or "train" not in record.splits:
        return []
    ours = record.splits["train"]
    theirs = before.splits.get("train") if before and before.classes == record.classes else None
    words = []
    for index, name in enumerate(record.classes):
        change = ours.share(index) - theirs.share(index) if theirs else 0.0
        words.append(f"{name} {ours.share(index):.1%}" + (f" ({100 * change:+.1f})" if abs(change) >= 0.0005 else ""))
    differs = " (points more than in the champion's)" if theirs else ""
    return [f"Share of labeled pixels in train{differs}: {_listed(words)}.", ""]


def _making(record: Record, candidate: Version) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    ranks = "1 rank" if record.world_size == 1 else f"{record.world_size} ranks"
    cut = f", started {record.attempts} times" if record.attempts > 1 else ""
    flow_run = f"[flow run]({record.flow_run})" if record.flow_run.startswith("http") else f"flow run {record.flow_run}"
    start = f"from `{record.init}`" if record.init else "from chance"
    return [
        "# Making",
        f"Recipe `{record.recipe}`, seed {record.seed}, {start}, {ranks} on {record.device}, "
        f"{_duration(record.seconds)}{cut}; {flow_run}, run `{candidate.run_id}`. "
        f"Code {f'`{record.commit[:12]}{record.commit[40:]}`' if record.commit else 'of no known commit'}, {versions}. "
        f"Weights `{candidate.sha256[:16]}`.",
        "",
    ]


def _limits(of: Assessment) -> list[str]:
    """Say what the numbers above don't tell."""
    found = []
    if of.found.images is not None and of.found.classes:
        images = (of.found.images.sum(2) > 0).sum(0).tolist()
        counts = dict(zip(of.found.classes, images, strict=True))
        absent = [name for name, count in counts.items() if not count]
        few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < _FEW_IMAGES]
        if of.found.samples < _FEW_IMAGES:
            few = ["all classes: there are not more"]
        if absent:
            found.append(f"not in the holdout, so not measured: {_listed(absent)}")
        if few:
            found.append(f"in few images of the holdout, so hardly measured: {_listed(few)}")
    miou = of.rows.get("miou")
    if miou and miou.low is not None and miou.high is not None and miou.high - miou.low > 2 * _WIDE:
        found.append(
            f"{of.found.samples} images tell mIoU only to ±{(miou.high - miou.low) / 2:.3f}: a larger holdout helps"
        )
    if of.record:
        height, width = of.record.image_size
        found.append(f"trained at {width}×{height}: other photographs are brought to that size, or segmented in tiles")
        if of.record.skipped:
            found.append(f"{of.record.skipped} sources could not be used: manifest.json says why")
    for who, record in (("this version", of.record), ("the champion", of.before)):
        if record and of.holdout not in {split.digest for name, split in record.splits.items() if name != "train"}:
            found.append(f"{who} was not held out from these very images: it may have been trained on some")
    return ["# Known limits", *(f"- {limit}" for limit in found), ""] if found else []


def _listed(words: Sequence[str]) -> str:
    rest = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
    return ", ".join(words[:_MOST_WORDS]) + rest


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _table(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|---" * len(titles) + "|"]


def _row(cells: Sequence[str]) -> str:
    """Return a row of a table; MLflow leaves no room between columns."""
    clean = (re.sub(r"\s+", " ", cell.replace("|", "/")) for cell in cells)
    return "| " + " | ".join(f"{cell}{SPACE}" if cell else "" for cell in clean) + " |"
