"""infra/prefect.yaml against a real server: what it registers, and that a real worker runs it."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.stack.stack import StackStatus
from tests.flows.command_line import vitseg
from tests.looks.browser import CHROMIUM, signed_in
from tests.looks.browser import prefect as prefect_server
from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import promotion, tracking, versions

ROOT = Path(__file__).parents[3]
POOLS = {"preprocess": "cpu", "review": "cpu"} | dict.fromkeys(
    ("train", "train-node", "pretrain", "segment", "evaluate", "retrain"), "gpu"
)

Deployments = dict[str, dict[str, Any]]


def prefect(*arguments: str, folder: Path = ROOT) -> str:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def api(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    login = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(
        os.environ["PREFECT_API_URL"] + path,
        None if method == "GET" else json.dumps(body or {}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def test_the_form_of_a_run_offers_the_choices(stack: StackStatus) -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.preprocess import preprocess
    from flows.retrain import retrain
    from flows.segment import segment

    fields = {flow.name: parameter_schema(flow).properties for flow in (preprocess, retrain, segment)}
    assert "cityscapes" in fields["preprocess"]["layout"]["enum"]
    assert fields["retrain"]["start"]["enum"] == [
        "scratch",
        "champion",
        "chance",
    ]  # the last as deployments may hold it
    assert "vit-base" in fields["retrain"]["preset"]["enum"]
    assert fields["segment"]["also"]["items"]["enum"] == ["color", "overlay", "confidence"]
    assert retrain.validate_parameters({"source": "photos", "start": "chance"})["start"] == "scratch"  # its old name


@pytest.fixture(scope="module")
def deployments(stack: StackStatus) -> Deployments:
    """Register everything, twice; return deployments by name."""
    for again in (False, True):
        done = vitseg("deploy", "--file", str(ROOT / "infra" / "prefect.yaml"), "--json")
        assert done.code == 0, done.err
        assert done.json["pools"] == ["cpu", "gpu"]
        assert done.json["new_pools"] == ([] if again else ["cpu", "gpu"])
        assert set(done.json["deployments"]) == set(POOLS)
        found = {row["name"]: row for row in api("POST", "/deployments/filter")}
        (weekly,) = found["retrain"]["schedules"]
        assert weekly["active"] is again  # somebody must switch it on, and it stays so
        api("PATCH", f"/deployments/{found['retrain']['id']}/schedules/{weekly['id']}", {"active": not again})
    return found


def test_each_flow_is_on_its_pool(deployments: Deployments) -> None:
    assert {name: row["work_pool_name"] for name, row in deployments.items()} == POOLS


def test_one_training_at_a_time_and_the_others_wait(deployments: Deployments) -> None:
    limited = {name for name, row in deployments.items() if row["global_concurrency_limit"]}
    assert limited == {"train", "pretrain", "retrain"}
    for name in limited:
        assert deployments[name]["global_concurrency_limit"]["limit"] == 1
        assert deployments[name]["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_retrain_has_a_weekly_schedule_that_somebody_must_switch_on(deployments: Deployments) -> None:
    assert [name for name, row in deployments.items() if row["schedules"]] == ["retrain"]
    (schedule,) = deployments["retrain"]["schedules"]
    minute, hour, day, month, weekday = schedule["schedule"]["cron"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert weekday.isdigit()
    assert (day, month) == ("*", "*")


def test_no_path_of_this_machine_is_stored(deployments: Deployments) -> None:
    stored = json.dumps(list(deployments.values()))
    assert str(ROOT) not in stored
    assert str(Path.home()) not in stored
    assert not any(row["path"] or row["pull_steps"] for row in deployments.values())


def test_parameters_are_checked_before_anything_runs(deployments: Deployments) -> None:
    good = {"source": "s3://vitseg/source", "dest": "s3://vitseg/shards"}
    for wrong in ({"size": "256x256"}, {"size": [256]}, {"shard_samples": "many"}, {"dest": None}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            api("POST", f"/deployments/{deployments['preprocess']['id']}/create_flow_run", {"parameters": good | wrong})
        assert caught.value.code in (409, 422)


def test_a_worker_runs_preprocess_to_its_end(deployments: Deployments, scenes: Path, tmp_path: Path) -> None:
    dest = "s3://vitseg/deployed"
    parameters = {"source": str(scenes), "dest": dest, "size": [32, 64], "shard_samples": 8}
    run = api(
        "POST",
        f"/deployments/{deployments['preprocess']['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    log = prefect("worker", "start", "--pool", "cpu", "--type", "process", "--run-once", folder=tmp_path)
    assert api("GET", f"/flow_runs/{run['id']}")["state_type"] == "COMPLETED", log
    manifest = read_manifest(dest)
    assert {name: (split.samples, len(split.shards)) for name, split in manifest.splits.items()} == {
        "train": (24, 3),
        "val": (6, 1),
    }


def test_what_cannot_be_deployed_is_told_in_one_line(deployments: Deployments, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("name: nothing")
    text = (ROOT / "infra" / "prefect.yaml").read_text()
    (tmp_path / "name.yaml").write_text(text.replace('shards: "s3://vitseg/shards"', "name: a/b"))
    for arguments, env, hint in (
        ([], {"PREFECT_API_AUTH_STRING": "vitseg:wrong"}, "refuses these credentials"),
        (["--file", str(tmp_path / "empty.yaml")], {}, "holds no deployments"),
        (["--file", str(tmp_path / "none.yaml")], {}, "does not exist"),
        (["--file", str(tmp_path / "name.yaml")], {}, "'a/b' can't be the name of a registered model"),
    ):
        done = vitseg("deploy", *arguments, env=env)
        assert (done.code != 0, done.err.count("\n")) == (True, 1), done.err
        assert hint in done.err


def test_what_was_killed_does_not_hold_its_place_for_ever(deployments: Deployments) -> None:
    names = [row["name"] for row in api("POST", "/automations/filter")]
    assert names.count("a run that sends no heartbeat has crashed") == 1
    assert names.count("a training whose process or machine is gone starts again") == 1
    assert len(names) == 3  # the last one starts a review


def test_the_form_offers_words_and_says_what_each_parameter_is(deployments: Deployments) -> None:
    for name, words in (
        ("train", {"preset"}),
        ("segment", {"ids"}),
        ("preprocess", {"layout"}),
        ("retrain", {"start"}),
    ):
        fields = deployments[name]["parameter_openapi_schema"]["properties"]
        assert all(field.get("description") for field in fields.values()), name
        for word in words:
            assert len(fields[word]["enum"]) >= 2


def test_a_version_up_for_review_waits_for_a_person_and_takes_no_worker(
    deployments: Deployments, shards: str, tmp_path: Path
) -> None:
    """What `retrain` tells starts `review`, on a worker; the form's answer promotes, as the command would."""
    from flows.retrain import PROPOSED  # imports Prefect, which must know the server by then

    version = register(shards, tmp_path, "reviewed")
    payload = json.dumps({"name": "reviewed", "version": version.version, "gate": "", "to": ""})
    prefect("event", "emit", PROPOSED, "--resource-id", "vitseg.model.reviewed", "--payload", payload)
    runs = wait_for(lambda: api("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["review"]}}}))
    assert [(run["parameters"]["name"], run["parameters"]["version"]) for run in runs] == [("reviewed", "1")]
    run = f"/flow_runs/{runs[0]['id']}"
    log = prefect("worker", "start", "--pool", "cpu", "--type", "process", "--run-once", folder=tmp_path)
    found = api("GET", run)
    assert found["state"]["name"] == "Suspended", log
    assert versions.get_version("reviewed", "1").tags["gate"] == "passed"
    assert "# Gate: passed" in api("GET", f"{run}/input/suspended-decision-description")
    assert versions.alias_version("reviewed", promotion.CHAMPION) is None

    if CHROMIUM:
        look_at_the_form(runs[0]["id"])

    said = {"version": "1", "decision": "promote", "reviewer": "ada", "reason": "the first one"}
    for missing in ("reviewer", "decision"):
        refused = api("POST", f"{run}/resume", {"run_input": {**said, missing: ""}})
        assert refused["status"] == "REJECT", refused
    assert api("POST", f"{run}/resume", {"run_input": said})["status"] == "ACCEPT"
    log = prefect("worker", "start", "--pool", "cpu", "--type", "process", "--run-once", folder=tmp_path)
    assert api("GET", run)["state_type"] == "COMPLETED", log
    champion = versions.get_version("reviewed", "1")
    assert (champion.aliases, champion.tags["reviewer"]) == (("champion",), "ada")


def look_at_the_form(run: str) -> None:
    address, user, password = prefect_server()
    with signed_in(user, password) as page:
        page.goto(f"{address}/runs/flow-run/{run}")
        page.get_by_role("button", name="Resume").first.click()
        form = page.get_by_role("dialog")
        form.get_by_role("heading", name="Gate: passed").wait_for()
        for field in ("Version", "Decision", "Reviewer", "Reason"):
            form.get_by_text(field, exact=False).first.wait_for()
        assert "&ensp;" not in form.inner_text()


def register(shards: str, folder: Path, name: str) -> versions.Version:
    """Put a bundle with weights of chance into the registry."""
    manifest = read_manifest(shards)
    save_bundle(
        folder / "bundle",
        build_model(small_recipe().model, manifest.image_size, len(manifest.classes), 0),
        manifest.classes,
    )
    run_id = tracking.start_run("by hand", {}, {})
    tags = {"review": "pending", "shards": shards}
    return versions.register(folder / "bundle", name=name, run_id=run_id, tags=tags, description="by hand")


def wait_for(found: Callable[[], Any], seconds: float = 60, every: float = 0.5) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(every)
    return value
