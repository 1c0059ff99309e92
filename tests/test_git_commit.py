"""The git commit that records and checkpoints name."""

import subprocess
from pathlib import Path

import pytest

from vitseg import git_commit

ROOT = Path(__file__).parents[1]


def test_the_commit_is_this_checkouts_or_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VITSEG_GIT_COMMIT", raising=False)
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert git_commit.code_commit().removesuffix("+") == head.stdout.strip()
    theirs = tmp_path / "venv"  # an installed package, in the checkout of something else
    theirs.mkdir()
    author = ["-c", "user.name=them", "-c", "user.email=them@example.org"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(git_commit, "_CHECKOUT", theirs)
    assert git_commit.code_commit() == ""
    monkeypatch.setenv("VITSEG_GIT_COMMIT", "c0ffee")
    assert git_commit.code_commit() == "c0ffee"
