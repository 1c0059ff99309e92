"""`vitseg registry …`: what a reviewer types."""

import datetime
import os
from typing import Annotated, Any

import typer
from typer import Argument, Option

from flows.cli import options, validate
from flows.cli.output import answer
from flows.cli.process import prepare_flow, prepare_tracking
from vitseg.storage import canonical

registry_app = typer.Typer(
    name="registry",
    no_args_is_help=True,
    help="Review versions: list, show, compare, assess, promote, reject, roll back.",
)

_DATA = "Measure on this data set."
VersionNumber = Annotated[str, Argument(metavar="VERSION", help="Name the version by its number.")]
Reviewer = Annotated[str, Option(metavar="NAME", help="Record who decides.")]
Reason = Annotated[str, Option(metavar="TEXT", help="Record why.")]
Data = Annotated[
    str | None,
    Option("--shards", parser=canonical, metavar="SHARDS", show_default="the version's own", help=_DATA),
]


@registry_app.callback()
def prepare() -> None:
    """Prepare the registry: without a server it is a database on this machine."""
    prepare_tracking()


@registry_app.command("list")
def list_(name: options.Name = "vitseg", json: options.Json = False) -> None:
    """List versions, newest first."""
    from vitseg.registry.versions import list_versions

    versions = [_row(version) for version in list_versions(name)]
    lines = {f"version {row['version']}": _line(row) for row in versions}
    answer({"name": name, "versions": versions} if json else lines or {name: "no versions yet"}, json)


@registry_app.command()
def show(version: VersionNumber, name: options.Name = "vitseg", json: options.Json = False) -> None:
    """Show a version's page."""
    from vitseg.registry.markdown import CELL_PADDING
    from vitseg.registry.versions import get_version

    found = get_version(name, version)
    page = found.description if json else found.description.replace(CELL_PADDING, "")
    answer({**_row(found, json), "tags": dict(found.tags), "description": page}, json)


@registry_app.command()
def compare(
    a: VersionNumber,
    b: VersionNumber,
    shards: Data = None,
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Measure two versions now, on the same validation images: what differs, and how sure that is."""
    prepare_flow()
    from flows import compare as flow
    from vitseg.registry.versions import get_version, shards_of

    first, second = get_version(name, a), get_version(name, b)
    result = flow.compare(first.uri, second.uri, shards=shards or shards_of(second))
    answer(result if json else flow.comparison_lines(result), json)


@registry_app.command()
def assess(
    version: VersionNumber,
    shards: Data = None,
    gate: options.Gate = None,
    to: options.To = "",
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Measure a version against the gate and the champion, now, and write the page for its reviewer."""
    validate.gate(gate)
    prepare_flow()
    from flows.assess import assess as flow
    from vitseg.registry.gate import NO_CHAMPION

    result = flow(name, version, shards=shards, gate=gate, to=to)
    first = result["compared_to"] == NO_CHAMPION
    lines = {
        "gate": result["gate"],
        "compared with": "nothing: the first" if first else f"the champion, version {result['compared_to']}",
        "holdout": result["holdout"],
    }
    for rule in result["rules"]:
        word = "passed" if rule["passed"] else "FAILED"
        lines[f"{word}: {rule['rule']}"] = f"{rule['value']}, threshold {rule['threshold']}"
    answer(result if json else lines, json)


@registry_app.command()
def promote(
    version: VersionNumber,
    reviewer: Reviewer,
    reason: Reason,
    to: options.To = "",
    gate: options.Gate = None,
    shards: Data = None,
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Make a version the champion, if it passes the gate; measure it first where that is due."""
    validate.gate(gate)
    prepare_flow()
    from flows.review import promote as decide

    decided = decide(name, version, reviewer=reviewer, reason=reason, to=to, gate=gate, shards=shards)
    answer(_row(decided, json), json)


@registry_app.command()
def reject(
    version: VersionNumber,
    reviewer: Reviewer,
    reason: Reason,
    name: options.Name = "vitseg",
    json: options.Json = False,
) -> None:
    """Reject a version for good."""
    from vitseg.registry import promotion

    answer(_row(promotion.reject(name, version, reviewer, reason), json), json)


@registry_app.command()
def rollback(reviewer: Reviewer, reason: Reason, name: options.Name = "vitseg", json: options.Json = False) -> None:
    """Make the previous champion the champion again."""
    from vitseg.registry import promotion

    answer(_row(promotion.rollback(name, reviewer, reason), json), json)


@registry_app.command("upload-metrics")
def upload_metrics(
    address: Annotated[
        str, Argument(parser=canonical, help="Upload from this folder of a job, or this file that a training kept.")
    ],
    json: options.Json = False,
) -> None:
    """Upload the metrics of a training that ended while the tracking server was away; twice does no harm."""
    from vitseg.registry.metric_upload import upload

    answer({"uploaded": upload(address)}, json)


@registry_app.command()
def team(
    candidates: Annotated[
        str, Option(metavar="NAME", help="Let training use this model (--name).")
    ] = "vitseg-candidates",
    approved: Annotated[str, Option(metavar="NAME", help="Let segmentation read this model (--to).")] = "vitseg",
    trainer: Annotated[str, Option(metavar="NAME", help="Let this user train; TRAINER_PASSWORD signs in.")] = "trainer",
    reviewer: Annotated[
        str, Option(metavar="NAME", help="Let this user approve; REVIEWER_PASSWORD signs in.")
    ] = "reviewer",
    json: options.Json = False,
) -> None:
    """Create two models and two MLflow users, so that trainers can't approve; again, to change passwords."""
    from vitseg.registry.team import User, make_team

    passwords = (os.environ.get("TRAINER_PASSWORD", ""), os.environ.get("REVIEWER_PASSWORD", ""))
    make_team(candidates, approved, User(trainer, passwords[0]), User(reviewer, passwords[1]))
    answer({"candidates": candidates, "approved": approved, "trainer": trainer, "reviewer": reviewer}, json)


def _row(version: Any, json: bool = True) -> dict[str, Any]:
    """Return a version as an answer; people read its date, programs its milliseconds."""
    created = datetime.datetime.fromtimestamp(version.created / 1000, datetime.UTC)
    return {
        "version": version.version,
        "uri": version.uri,
        "aliases": list(version.aliases),
        "review": version.tags.get("review", ""),
        **{name: _number(version.tags.get(name)) for name in ("miou", "pixel_accuracy", "psnr")},
        "run_id": version.run_id,
        "sha256": version.sha256,
        "created": version.created if json else created.isoformat(sep=" ", timespec="seconds"),
    }


def _number(text: str | None) -> float | None:
    """Read a tag, which anybody who may edit the version can have written."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _line(row: dict[str, Any]) -> str:
    aliases = " ".join(f"@{alias}" for alias in row["aliases"])
    quality = f"mIoU {row['miou']:.3f}" if row["miou"] is not None else ""
    quality = f"PSNR {row['psnr']:.2f} dB" if row["psnr"] is not None else quality
    return "  ".join(text for text in (quality, row["review"], aliases) if text)
