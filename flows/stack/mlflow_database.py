"""The SQLite file of MLflow, prepared before anything opens it."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from flows.stack.processes import clean_environment, locked
from vitseg.errors import VitsegError


def prepare_database(file: Path) -> None:
    """Create or migrate an MLflow SQLite database, once per version of MLflow (about 8 s).

    Processes that open a fresh database together damage it, hence the lock; and one that is killed must not
    leave half a file, hence the rename.

    Raises:
        VitsegError: MLflow refused.
    """
    stamp, version = file.with_suffix(".mlflow-version"), importlib.metadata.version("mlflow")
    if file.exists() and stamp.exists() and stamp.read_text() == version:
        return
    with locked(file.with_suffix(".lock")):
        if file.exists() and stamp.exists() and stamp.read_text() == version:
            return
        part = file if file.exists() else file.with_suffix(".part")
        if part != file:
            part.unlink(missing_ok=True)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{part.name}"]
        clean = clean_environment()
        done = subprocess.run(command, cwd=file.parent, env=clean, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise VitsegError(f"MLflow can't prepare its database {file}: {reason}")
        part.replace(file)
        stamp.write_text(version)
