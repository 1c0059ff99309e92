"""The floors of the house: who may import whom, and what must never appear where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitseg.config import load_recipe, presets
from vitseg.model.segmenter import build_model

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("vitseg/**/*.py"), *ROOT.glob("flows/**/*.py")])
FLOORS = {
    0: {"errors", "architecture", "git_commit", "labels", "recipe", "config", "storage", "images", "dist"},
    1: {"data", "synth", "model", "losses", "metrics", "seams", "masks", "pictures"},
    2: {"checkpoint", "evaluation", "registry"},
    3: {"training", "inference"},
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}


def part(path: Path) -> str:
    """Return `data` for vitseg/data/loader.py, `losses` for vitseg/losses.py."""
    return path.relative_to(ROOT / "vitseg").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_source_outgrows_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", [p for p in SOURCES if "vitseg" in p.parts and p.name != "__init__.py"], ids=relative)
def test_imports_go_down(path: Path) -> None:
    if "flows" in path.relative_to(ROOT).parts:
        return
    own = part(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("vitseg.")} & FLOOR_OF.keys()
    for other in used - {own}:
        assert FLOOR_OF[other] < FLOOR_OF[own] or FLOOR_OF[own] == 0, f"{relative(path)} imports vitseg.{other}"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("prefect", ["flows"]),
        ("flows", ["flows"]),
        ("mlflow", ["vitseg/registry"]),
        ("torch.distributed", ["vitseg/dist.py"]),
        ("boto3", ["vitseg/storage/s3.py"]),
        ("pickle", []),
    ],
)
def test_each_library_has_one_home(library: str, home: list[str]) -> None:
    for path in SOURCES:
        if any(relative(path).startswith(place) for place in home):
            continue
        used = [name for name in imports(path) if name == library or name.startswith(f"{library}.")]
        assert not used, f"{relative(path)} imports {used}"


@pytest.mark.parametrize("target", ["classes", "rgb"])
@pytest.mark.parametrize("preset", presets())
def test_no_model_contains_a_convolution(preset: str, target: str) -> None:
    with torch.device("meta"):
        model = build_model(load_recipe(preset, overrides=[f"model.target={target}"]).model, (256, 256), 19, seed=0)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not [kind for kind in kinds if "conv" in kind.lower()]


def test_model_sources_call_no_convolution() -> None:
    for path in ROOT.glob("vitseg/model/*.py"):
        names = [getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(ast.parse(path.read_text()))]
        assert not [name for name in names if name.lower().startswith("conv") and name != "convolutions"], path.name


def test_a_command_line_that_is_only_read_starts_at_once() -> None:
    """Each worker process of a job imports it, too: torch here cost every one of them a second and its memory."""
    code = "import sys, flows.cli; print([name for name in ('torch', 'prefect', 'mlflow', 'boto3') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_top_level_is_what_the_design_says() -> None:
    allowed = {"flows", "vitseg", "infra", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listed.stdout.split() if not name.startswith(".")} <= allowed


def test_every_part_of_the_package_is_on_the_map() -> None:
    here = {
        path.name.removesuffix(".py") for path in (ROOT / "vitseg").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert here - {"__init__", "__pycache__", "recipes"} == FLOOR_OF.keys()
    text = (ROOT / "vitseg/__init__.py").read_text()
    assert not [name for name in FLOOR_OF if name not in text]
