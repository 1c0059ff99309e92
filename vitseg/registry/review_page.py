"""The page that a reviewer decides by, in Markdown: gate, comparison, examples, data, provenance, known limitations.

It is the description of a version, which is all that MLflow's page of a version shows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote

from vitseg.class_change import ClassChange
from vitseg.metrics.result import Evaluation
from vitseg.metrics.seams import seam_ratios, worst_seam
from vitseg.origin import Origin
from vitseg.registry.comparison import Difference
from vitseg.registry.gate import RuleResult, all_passed
from vitseg.registry.markdown import CELL_PADDING, duration, listed, table_head, table_row
from vitseg.registry.promotion import command
from vitseg.registry.provenance import Provenance
from vitseg.registry.training_summary import MAX_PAGE
from vitseg.registry.versions import Version

_SUMMARY = "\n\n# Training summary\n\n"
_OLD_SUMMARY = "\n\n# As trained\n\n"  # in pages of earlier versions of vitseg
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")
_TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
_FEW_IMAGES = 10
_MAX_WARNINGS = 4  # of up to 300 characters each
_SUMMARY_ROOM = 300  # characters of the training summary that always fit
_LINE_ROOM = 80
_WIDE = 0.02  # half of an interval of mIoU that is worth a warning


@dataclass(frozen=True)
class Assessment:
    """All that a review page shows of one version."""

    candidate: Version
    champion: Version | None
    """None: there is none; then the other fields about it are empty."""
    rules: tuple[RuleResult, ...]
    changes: Mapping[str, Difference]
    """Differences of champion (A) and candidate (B), by metric."""
    evaluation: Evaluation
    champion_evaluation: Evaluation | None
    data: str
    """Split and address of the images that both were measured on."""
    holdout: str
    """Digest of these images."""
    provenance: Provenance | None = None
    champion_provenance: Provenance | None = None
    picture: str = ""
    """Address of the examples; "": there are none."""
    target: str = ""
    """Registered model that the version is promoted to, if it is not its own."""
    class_change: ClassChange | None = None
    """Between the classes that the champion knows and the version's; None: the champion was not measured."""
    image_sizes: tuple[tuple[int, int], ...] = ()
    """(H, W) of the champion's and this version's images, pixels."""


def review_page(page: Assessment) -> str:
    """Return the page, followed by the training summary that the version's description holds already.

    MLflow keeps 5000 characters. So the comparison shows the classes that changed most, and the training summary is cut
    off at its end.
    """
    before = _gate(page)
    after = [
        *_examples(page),
        *_decision(page),
        *(_data(page.provenance, page.champion_provenance) if page.provenance else []),
        *(_provenance(page.provenance, page.candidate) if page.provenance else []),
        *_limitations(page),
    ]
    summary = _split(page.candidate.description)[1]
    room = MAX_PAGE - len("\n".join([*before, *after])) - len(_SUMMARY) - min(len(summary), _SUMMARY_ROOM)
    text = "\n".join([*before, *_comparison(page, room), *after]).rstrip() + _SUMMARY + summary
    return text if len(text) <= MAX_PAGE else text[:MAX_PAGE].rpartition("\n")[0]


def review_without_pictures(description: str, uri: str, server: str) -> str:
    """Return the review in a version's description as other tools show it: a link to MLflow in place of its pictures.

    The server is MLflow's address; to a database there is no link.
    """
    review, summary = _split(description)
    text = _PICTURE.sub("", review or summary).replace(CELL_PADDING, "")
    if not server.startswith("http"):
        return text
    name, _, version = uri.removeprefix("models:/").partition("/")
    link = f"{server.rstrip('/')}/?workflowType=machine_learning#/models/{name}/versions/{version}"
    return f"[{uri} in MLflow, with pictures]({link})\n\n{text}"


def _split(description: str) -> tuple[str, str]:
    """Return the review (or "") and the training summary in a version's description."""
    review, _, summary = description.replace(_OLD_SUMMARY, _SUMMARY).rpartition(_SUMMARY)
    return review, summary


def _gate(page: Assessment) -> list[str]:
    champion = (
        f"The champion is {page.champion.uri}." if page.champion else "There is no champion yet: only floors apply."
    )
    return [
        f"# Gate: {'passed' if all_passed(page.rules) else 'FAILED'}",
        f"Measured on {page.evaluation.samples} images, {page.data} (holdout `{page.holdout}`). {champion}",
        *_class_changes(page),
        "",
        *table_head(["rule", "threshold", "value", "result"]),
        *(
            table_row([rule.rule, rule.threshold, rule.value, "passed" if rule.passed else "**failed**"])
            for rule in page.rules
        ),
        "",
    ]


def _class_changes(page: Assessment) -> list[str]:
    """Return what another list of classes means for the comparison and for masks."""
    found = []
    if page.evaluation.only_in_data:
        found.append(f"Unknown to this version, so not measured: {listed(page.evaluation.only_in_data)}.")
    if page.champion and page.class_change is None:
        found.append("The champion was not compared, as they share no class of these images: only floors apply.")
    if page.class_change and not page.class_change.is_none:
        shared = sum(name.startswith("iou/") for name in page.changes)
        found.append(
            f"The classes changed: it is compared with the champion on the {shared} that both know. "
            "IoU counts all labeled pixels, pixel accuracy those of shared classes."
        )
        if page.class_change.added:
            found.append(f"New, so held to the floors alone: {listed(page.class_change.added)}.")
        if page.class_change.removed:
            found.append(f"**Removed, so no mask will show them any more: {listed(page.class_change.removed)}.**")
    return ["", *found] if found else []


def _comparison(page: Assessment, room: int) -> list[str]:
    """Return the comparison with the champion, with as many classes as fit into `room` characters."""
    if not page.changes or page.champion_evaluation is None:
        return []
    lines = [CELL_PADDING, "# Comparison", "IoU of each class, on the same images. Bold: significant at 95%.", ""]
    lines += table_head(["", "champion", "this version", "difference", "95% interval"])
    lines += [
        _change(title, page.changes[name]) for name, title in _TITLES.items() if _is_known(page.changes.get(name))
    ]
    sides = (page.champion_evaluation, page.evaluation)
    for title, (before, after) in (
        ("worst seam ratio", [worst_seam(seam_ratios(side.seams)) for side in sides]),
        ("images/s", [side.images_per_second for side in sides]),
    ):
        if math.isfinite(after - before):
            lines.append(table_row([title, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", ""]))
    classes = {name: row for name, row in page.changes.items() if name not in _TITLES and _is_known(row)}
    rows = {name: _change(name.removeprefix("iou/"), row) for name, row in classes.items()}
    room -= len("\n".join(lines)) + 2 * _LINE_ROOM
    shown = set()
    for name in sorted(classes, key=lambda name: (not classes[name].is_significant, -abs(classes[name].delta or 0))):
        room -= len(rows[name]) + 1
        if room > 0:
            shown.add(name)
    lines += [row for name, row in rows.items() if name in shown]
    if len(shown) < len(rows):
        lines += ["", f"{len(rows) - len(shown)} more classes: see `vitseg registry compare`."]
    return [*lines, ""]


def _is_known(row: Difference | None) -> bool:
    return row is not None and row.delta is not None


def _change(title: str, row: Difference) -> str:
    mark = "**" if row.is_significant else ""
    return table_row(
        [title, f"{row.a:.3f}", f"{row.b:.3f}", f"{mark}{row.delta:+.3f}{mark}", f"{row.low:+.3f} to {row.high:+.3f}"]
    )


def _examples(page: Assessment) -> list[str]:
    if not page.picture:
        return []
    lost = ", then those that lost most against the champion" if page.champion else ""
    text = f"The images with the lowest pixel accuracy (in percent){lost}."
    return [CELL_PADDING, "# Examples", text, "", f"![examples]({page.picture})", ""]


def _decision(page: Assessment) -> list[str]:
    who = "--reviewer YOU --reason WHY"
    commands = [
        f"{command('promote', page.candidate, page.target)} {who}",
        f"{command('reject', page.candidate)} {who}",
        *([f"vitseg registry rollback --name {quote(page.champion.name)} {who}"] if page.champion else []),
    ]
    return ["To decide:", "", *(f"    {line}" for line in commands), ""]


def _data(ours: Provenance, champions: Provenance | None) -> list[str]:
    known = champions.splits if champions else {}
    same = champions is not None and champions.fingerprint == ours.fingerprint
    lines = ["# Data", f"Fingerprint `{ours.fingerprint[:16]}`{', as the champion' if same else ''}.", ""]
    lines += table_head(["split", "images", "champion's", "digest", ""])
    for name in [*ours.splits, *(gone for gone in known if gone not in ours.splits)]:
        split, other = ours.splits.get(name), known.get(name)
        change = (
            "" if champions is None else ("same" if split and other and split.digest == other.digest else "changed")
        )
        counts = [f"{one.samples:,}" if one else "–" for one in (split, other)]
        lines.append(table_row([name, *counts, f"`{split.digest if split else '–'}`", change]))
    doubts = [f"- **Warning of `preprocess`:** {line}" for line in ours.warnings[:_MAX_WARNINGS]]
    return [*lines, "", *doubts, *([""] if doubts else []), *_class_shares(ours, None if same else champions)]


def _class_shares(ours: Provenance, champions: Provenance | None) -> list[str]:
    """Return the shares of the classes in the labeled training pixels, and how they differ from the champion's data."""
    if not ours.classes or "train" not in ours.splits:
        return []
    split = ours.splits["train"]
    other = champions.splits.get("train") if champions and champions.classes == ours.classes else None
    words = []
    for index, name in enumerate(ours.classes):
        share, before = split.share(index), other.share(index) if other else split.share(index)
        if share or before:
            change = f" ({100 * (share - before):+.1f})" if abs(share - before) >= 0.0005 else ""
            words.append(f"{name} {share:.1%}{change}")
    note = " (difference from the champion's, in percentage points)" if other else ""
    return [f"Share of labeled pixels in train{note}: {listed(words)}.", ""]


def _provenance(ours: Provenance, candidate: Version) -> list[str]:
    ranks = "1 rank" if ours.world_size == 1 else f"{ours.world_size} ranks"
    attempts = f", in {ours.attempts} attempts" if ours.attempts > 1 else ""
    flow_run = f"[flow run]({ours.flow_run})" if ours.flow_run.startswith("http") else f"flow run {ours.flow_run}"
    commit = f"commit `{ours.commit[:12]}{ours.commit[40:]}`" if ours.commit else "commit unknown"
    packages = ", ".join(f"{name} {version}" for name, version in ours.versions.items())
    precision = f" in {ours.precision}" if ours.precision else ""
    return [
        "# Provenance",
        f"- Recipe `{ours.recipe}`, seed {ours.seed}, from {f'`{ours.init}`' if ours.init else 'scratch'}",
        *_published(ours.origin),
        f"- Trained by {ranks} on {ours.device}{precision} in {duration(ours.seconds)}{attempts}: "
        f"{flow_run}, MLflow run `{candidate.run_id}`",
        f"- Code: {commit}; {packages}",
        f"- Model: sha256 `{candidate.sha256[:16]}`",
        "",
    ]


def _published(origin: Origin) -> list[str]:
    """Return a line about the published weights that a version began with, if it did."""
    if not origin.family:
        return []
    commit = f", commit `{origin.commit[:12]}`" if origin.commit else ""
    words = origin.license_words() if origin.is_permissive else f"**{origin.license_words()}**"
    return [f"- Pretrained: {origin.family}, `{origin.address}`{commit}, sha256 `{origin.sha256[:16]}`; {words}"]


def _limitations(page: Assessment) -> list[str]:
    """Return what the numbers above do not show."""
    found = []
    measured = page.evaluation
    if measured.images is not None:
        images = (measured.images.sum(2) > 0).sum(0)[: len(measured.classes)].tolist()
        counts = dict(zip(measured.classes, images, strict=True))
        absent = [*(name for name, count in counts.items() if not count), *measured.only_in_model]
        few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < _FEW_IMAGES]
        if absent:
            found.append(f"Not in the holdout, so not measured: {listed(absent)}.")
        if measured.samples < _FEW_IMAGES:
            found.append(f"The holdout has only {measured.samples} images: all values are uncertain.")
        elif few:
            found.append(f"In few images of the holdout (number), so uncertain: {listed(few)}.")
    miou = page.changes.get("miou")
    if miou and miou.low is not None and miou.high is not None and miou.high - miou.low > 2 * _WIDE:
        error = (miou.high - miou.low) / 2
        found.append(f"With {measured.samples} images, mIoU is uncertain by ±{error:.3f}: a larger holdout helps.")
    if len(set(page.image_sizes)) > 1:
        sizes = [f"{width}×{height}" for height, width in page.image_sizes]
        found.append(
            f"The champion sees images of {sizes[0]}, this version of {sizes[1]}: each was measured at its own size."
        )
    if page.provenance:
        height, width = page.provenance.network_size or page.provenance.image_size
        found.append(f"Trained at {width}×{height}: other photographs are resized, or segmented in tiles.")
        if page.provenance.skipped:
            found.append(f"{page.provenance.skipped} sources could not be used; manifest.json lists them with reasons.")
    for who, record in (("This version", page.provenance), ("The champion", page.champion_provenance)):
        if record and page.holdout not in {split.digest for name, split in record.splits.items() if name != "train"}:
            found.append(f"{who} may have been trained on images of this holdout: its own was another.")
    return ["# Known limitations", *(f"- {limit}" for limit in found), ""] if found else []
