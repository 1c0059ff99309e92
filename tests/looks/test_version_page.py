"""A version's page as a reviewer sees it: MLflow, a real server, in a real browser."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.stack.stack import StackStatus
from tests.looks.browser import CHROMIUM, mlflow, signed_in
from tests.registry.conftest import CLASSES, evaluated, write_bundle
from vitseg.registry import tracking, versions
from vitseg.registry.gate import Gate, RuleResult, record_verdict
from vitseg.registry.review_page import Assessment, review_page

RED = (200, 30, 30)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


def test_everything_a_reviewer_needs_is_on_the_page_and_drawn(stack: StackStatus, tmp_path: Path) -> None:
    run_id = tracking.start_run("looked at", {}, {})
    tracking.log_picture(run_id, Image.new("RGB", (400, 100), RED), "review/examples.png")
    tags = {"review": "pending"}
    made = versions.register(
        write_bundle(tmp_path / "b"), name="looks", run_id=run_id, tags=tags, description="as it was trained"
    )
    names = tuple(label.name for label in CLASSES)
    found = evaluated(torch.eye(4, dtype=torch.int64)[None], names, samples=60, images_per_second=9.5, seam=1.1)
    picture = f"get-artifact?run_uuid={run_id}&path=review/examples.png"
    rules = (RuleResult("mIoU", "≥ 0.3", "0.516", passed=True), RuleResult("PSNR", "≥ 9", "8", passed=False))
    of = Assessment(made, None, rules, {}, found, None, "val of s3://b/shards", "ab12" * 4, picture=picture)
    record_verdict(made, passed=False, champion=None, holdout="ab12" * 4, page=review_page(of), rules=Gate())

    address, user, password = mlflow()
    with signed_in(user, password) as page:
        page.goto(f"{address}/?workflowType=machine_learning#/models/looks/versions/1")
        page.get_by_role("heading", name="Gate: FAILED").wait_for()
        rows = [" ".join(row.split()) for row in page.locator("table").first.locator("tr").all_inner_texts()]
        assert rows == ["rule threshold value result", "mIoU ≥ 0.3 0.516 passed", "PSNR ≥ 9 8 failed"]
        image = page.locator("img[src*='review/examples.png']")
        image.wait_for()
        page.wait_for_function("image => image.complete", arg=image.element_handle())
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [400, 100]
        text = page.inner_text("body")
        for wanted in (
            "vitseg registry promote 1 --name looks --reviewer YOU",
            "Known limitations",
            "as it was trained",
            "pending",
        ):
            assert wanted in text
        assert "&ensp;" not in text
        image.scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / "page.png")
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    drawn = (np.abs(shown - RED).max(2) < 8).sum()
    assert 0.9 < drawn / (400 * 100) < 1.1  # all of the picture, in its own size
