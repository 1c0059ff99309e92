"""The git commit of the code that runs."""

import os
import subprocess
from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]


def code_commit() -> str:
    """Return the commit of this checkout, with a + if files are changed, or VITSEG_GIT_COMMIT as container images set it."""
    named = os.environ.get("VITSEG_GIT_COMMIT", "")
    if named or not (_CHECKOUT / ".git").exists():  # an installed package may be inside another project's checkout
        return named
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
