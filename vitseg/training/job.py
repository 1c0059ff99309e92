"""A training job: what is trained on which data, as `job.json` in its own folder beside the checkpoints.

The folder's name is a function of data, recipe and initial weights, so that the same command finds the same job again:
an unfinished one goes on from its newest checkpoint, a finished one is not done twice.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from vitseg.config import recipe_from
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.json_input import malformed_as_data_error, parse_json
from vitseg.old_keys import without_overlap_keys
from vitseg.origin import Origin
from vitseg.recipe import Recipe, RecipeRequest
from vitseg.storage import join, open_store

SCHEMA = 1
HISTORY = "history.json"
"""In the job's folder: a row of metrics an epoch."""
SEGMENTATION, MASKED = "segmentation", "masked"
_FOLDERS = {SEGMENTATION: "training", MASKED: "pretraining"}


@dataclass(frozen=True)
class Job:
    """One training job.

    `task` is `SEGMENTATION`, or `MASKED`: pretraining on photographs, whose labels, if any, are ignored.
    `init` is the address of the weights to start from ("": from scratch), `init_sha256` the hash of the `init.safetensors`
    made of them, `origin` where they were published, if they were. `max_minutes` is the time that all attempts together may
    take. `result` is empty until the job is finished; then it is what `vitseg train` prints.
    `chosen` are the keys of the recipe whose values were chosen for the device when the job was new, each with the reason;
    `asked` is the digest of the recipe before that ("": as it is).
    """

    folder: str
    shards: str
    fingerprint: str
    recipe: Recipe
    run_id: str = ""
    init: str = ""
    init_sha256: str = ""
    origin: Origin = field(default_factory=Origin)
    task: str = SEGMENTATION
    max_minutes: float | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)
    asked: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Last part of its folder."""
        return self.folder.rstrip("/").rpartition("/")[2]

    @property
    def checkpoints(self) -> str:
        """Address of the folder of checkpoints."""
        return join(self.folder, "checkpoints")

    @property
    def encoder(self) -> str:
        """Address of the folder in which a pretraining leaves its encoder; `--init` takes it."""
        return join(self.folder, "encoder")

    @property
    def recipe_digest(self) -> str:
        """Digest of the recipe as it was asked for, by which the same request finds the job again."""
        return self.asked or self.recipe.digest()

    def choose(self, key: str, value: Any, reason: str) -> "Job":
        """Return the job with a value, `section.key`, that its request leaves to the device."""
        section, _, name = key.partition(".")
        part = replace(getattr(self.recipe, section), **{name: value})
        recipe: Recipe = replace(self.recipe, **{section: part})
        return replace(self, recipe=recipe, chosen={**self.chosen, key: reason}, asked=self.recipe_digest)

    def choose_as(self, other: "Job") -> "Job":
        """Return the job with the choices of another one: what was chosen stays, on whichever machine it goes on."""
        job = self
        for key, reason in other.chosen.items():
            section, _, name = key.partition(".")
            job = job.choose(key, getattr(getattr(other.recipe, section), name), reason)
        return job

    def gets_more_time(self, max_minutes: float | None) -> bool:
        """Return whether it ended because its time was up, and may now take longer (None: without limit)."""
        ended = self.result.get("stopped") == "minutes" and self.max_minutes is not None
        return ended and (max_minutes is None or max_minutes > (self.max_minutes or 0))


def job_folder(
    shards: str, fingerprint: str, recipe: Recipe | RecipeRequest, start_sha256: str = "", task: str = SEGMENTATION
) -> str:
    """Return the address of the job of this data, recipe and start, under the shards' own `_vitseg/training/`."""
    start = f"-{start_sha256[:12]}" if start_sha256 else ""
    return join(shards, "_vitseg", _FOLDERS[task], f"{fingerprint[:8]}-{recipe.digest()}{start}")


def write_job(job: Job) -> None:
    """Write `job.json`."""
    data = {"schema": SCHEMA, **vars(job), "recipe": job.recipe.to_json()}
    data |= {"origin": asdict(job.origin), "chosen": dict(job.chosen), "result": dict(job.result)}
    del data["folder"]
    open_store(job.folder).write("job.json", json.dumps(data, indent=1).encode(), content_type="application/json")


def read_job(folder: str) -> Job | None:
    """Read `job.json`, or return None where there is none.

    Raises:
        DataError: it is there, but not ours.
    """
    store = open_store(folder)
    try:
        data = store.read("job.json")
    except NotFoundError:
        return None
    try:
        return _from_json(folder, parse_json(data))
    except (DataError, UsageError) as error:
        raise DataError(f"{store.uri('job.json')} can't be used: remove the folder to train anew ({error})") from error


@malformed_as_data_error()
def _from_json(folder: str, data: Mapping[str, Any]) -> Job:
    if data.get("schema") != SCHEMA:
        raise DataError("written by another version of vitseg")
    # Older jobs have neither --init nor its origin, nor a task, nor choices.
    known = {item.name: data[item.name] for item in fields(Job) if item.name in data}
    recipe = {**data["recipe"], "model": without_overlap_keys(data["recipe"]["model"])}
    known |= {"recipe": recipe_from(recipe), "run_id": data["run_id"]}
    known |= {"chosen": dict(data.get("chosen", {})), "result": dict(data["result"])}
    known |= {"origin": Origin(**data.get("origin", {}))}
    return Job(**known | {"folder": folder})


def finish_job(job: Job, result: Mapping[str, Any]) -> Job:
    """Mark a job as finished with its result."""
    finished = replace(job, result=dict(result))
    write_job(finished)
    return finished


def forget_job(folder: str) -> None:
    """Remove a job's state and checkpoints, so that the same recipe starts over."""
    store = open_store(folder)
    for key in [info.key for info in store.list()]:
        store.delete(key)
