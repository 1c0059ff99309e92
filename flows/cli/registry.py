"""`vitseg registry …`: what a reviewer types."""

import datetime
import os
from typing import Annotated, Any

import typer

from flows.cli import validate
from flows.cli.output import answer
from flows.cli.process import prepare_flow, prepare_tracking

registry_app = typer.Typer(
    no_args_is_help=True, help="Review versions: list, show, compare, promote, reject, roll back."
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
ModelName = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
VersionNumber = Annotated[str, typer.Argument(help="Version number.")]
Reviewer = Annotated[str, typer.Option(help="Who decides.")]
To = Annotated[str, typer.Option(help="Registered model that it is promoted to; by default it stays in --name.")]
Gate = Annotated[str, typer.Option(help="A TOML file of rules; by default those it was judged by before.")]
Data = Annotated[str, typer.Option("--shards", help="Data set to measure on; by default the version's own.")]
Reason = Annotated[str, typer.Option(help="Why, for those who come after.")]


@registry_app.callback()
def prepare() -> None:
    """Make sure that there is a registry to ask."""
    prepare_tracking()


@registry_app.command("list")
def list_(name: ModelName = "vitseg", json: Json = False) -> None:
    """List versions, newest first."""
    from vitseg.registry.versions import list_versions

    versions = [_row(version) for version in list_versions(name)]
    if json:
        answer({"name": name, "versions": versions}, json)
        return
    answer({f"version {row['version']}": _line(row) for row in versions} or {name: "no versions yet"}, json)


@registry_app.command()
def show(version: VersionNumber, name: ModelName = "vitseg", json: Json = False) -> None:
    """Show a version's page."""
    from vitseg.registry.review_page import CELL_PADDING
    from vitseg.registry.versions import get_version

    found = get_version(name, version)
    page = found.description if json else found.description.replace(CELL_PADDING, "")
    answer({**_row(found, json), "tags": dict(found.tags), "description": page}, json)


@registry_app.command()
def compare(
    a: VersionNumber,
    b: VersionNumber,
    shards: Annotated[str, typer.Option(help="Data set to measure both on; by default B's own.")] = "",
    name: ModelName = "vitseg",
    json: Json = False,
) -> None:
    """Measure two versions now, on the same validation images: what changed, and whether that may be chance."""
    prepare_flow()
    from flows import compare as flow
    from vitseg.registry.versions import get_version, shards_of

    first, second = get_version(name, a), get_version(name, b)
    result = flow.compare(first.uri, second.uri, shards=shards or shards_of(second))
    answer(result if json else flow.comparison_lines(result), json)


@registry_app.command()
def assess(
    version: VersionNumber,
    shards: Data = "",
    gate: Gate = "",
    to: To = "",
    name: ModelName = "vitseg",
    json: Json = False,
) -> None:
    """Measure a version against the gate's rules and the champion, now, and write the page that a reviewer reads."""
    validate.gate(gate)
    prepare_flow()
    from flows.assess import assess as flow
    from vitseg.storage import canonical

    data = canonical(shards) if shards else None
    result = flow(name, version, shards=data, gate=gate or None, to=to)
    if json:
        answer(result, json)
        return
    rules = {
        f"{'passed' if rule['passed'] else 'FAILED'}: {rule['rule']}": f"{rule['value']}, threshold {rule['threshold']}"
        for rule in result["rules"]
    }
    against = (
        f"the champion, version {result['compared_to']}" if result["compared_to"] != "none" else "nothing: the first"
    )
    answer({"gate": result["gate"], "compared with": against, "holdout": result["holdout"], **rules}, json)


@registry_app.command()
def promote(
    version: VersionNumber,
    reviewer: Reviewer,
    reason: Reason,
    to: To = "",
    gate: Gate = "",
    shards: Data = "",
    name: ModelName = "vitseg",
    json: Json = False,
) -> None:
    """Make a version the champion, if it passes the gate; it is measured first if it never was, or is promoted elsewhere."""
    validate.gate(gate)
    prepare_flow()
    from flows.review import promote as decide
    from vitseg.storage import canonical

    data = canonical(shards) if shards else None
    decided = decide(name, version, reviewer=reviewer, reason=reason, to=to, gate=gate or None, shards=data)
    answer(_row(decided, json), json)


@registry_app.command()
def reject(
    version: VersionNumber, reviewer: Reviewer, reason: Reason, name: ModelName = "vitseg", json: Json = False
) -> None:
    """Reject a version for good."""
    from vitseg.registry import promotion

    answer(_row(promotion.reject(name, version, reviewer, reason), json), json)


@registry_app.command()
def rollback(reviewer: Reviewer, reason: Reason, name: ModelName = "vitseg", json: Json = False) -> None:
    """Make the previous champion the champion again."""
    from vitseg.registry import promotion

    answer(_row(promotion.rollback(name, reviewer, reason), json), json)


@registry_app.command("upload-metrics")
def upload_metrics(
    address: Annotated[str, typer.Argument(help="The job's folder, or a file of metrics that a training kept.")],
    json: Json = False,
) -> None:
    """Deliver the metrics of a training at whose end the tracking server was away; again does no harm."""
    from vitseg.registry.metric_upload import upload
    from vitseg.storage import canonical

    answer({"uploaded": upload(canonical(address))}, json)


@registry_app.command()
def team(
    candidates: Annotated[
        str, typer.Option(help="Model that training registers with (`--name`).")
    ] = "vitseg-candidates",
    approved: Annotated[str, typer.Option(help="Model that inference reads (`--to`).")] = "vitseg",
    trainer: Annotated[str, typer.Option(help="User that trains; TRAINER_PASSWORD is their password.")] = "trainer",
    reviewer: Annotated[
        str, typer.Option(help="User that approves; REVIEWER_PASSWORD is their password.")
    ] = "reviewer",
    json: Json = False,
) -> None:
    """Make two models and two MLflow users, so that who trains can't approve; again, to change passwords."""
    from vitseg.registry.team import User, make_team

    users = (
        User(trainer, os.environ.get("TRAINER_PASSWORD", "")),
        User(reviewer, os.environ.get("REVIEWER_PASSWORD", "")),
    )
    make_team(candidates, approved, *users)
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
    if row["psnr"] is not None:
        quality = f"PSNR {row['psnr']:.2f} dB"
    return "  ".join(text for text in (quality, row["review"], aliases) if text)
