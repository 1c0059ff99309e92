"""The floors of the house: who may import whom, and what must never appear where."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.source_tree import (
    MODULES,
    ROOT,
    SOURCES,
    circles,
    import_graph,
    imports,
    mirror,
    private_names,
    relative,
)
from vitseg.config import load_recipe
from vitseg.model.segmenter import build_model
from vitseg.recipes import PRESETS

FLOORS = {
    0: {
        *(
            "errors",
            "labels",
            "class_change",
            "json_input",
            "bounded_map",
            "recipe",
            "recipes",
            "architecture",
            "old_keys",
            "origin",
            "config",
        ),
        *(
            "storage",
            "images",
            "dist",
            "device_copy",
            "cuda_recording",
            "precision",
            "home",
            "child_processes",
            "git_commit",
        ),
    },
    1: {"data", "synth", "model", "losses", "metrics", "masks", "pictures"},
    2: {"checkpoint", "evaluation", "registry"},
    3: {"training", "inference"},
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}

FLOW_ROOMS = {
    "flows.cli": {"flows", "flows.tasks", "flows.display", "flows.stack"},
    "flows": {"flows.tasks", "flows.display", "flows.stack"},  # the flows themselves: flows/train.py and its like
    "flows.tasks": {"flows.display", "flows.stack"},
    "flows.display": set(),
    "flows.stack": set(),
}
"""Which other rooms of `flows` each one may import."""

PRIVATE = {
    ("flows/tasks/runners.py", "_node_ip_address"): "Ray has no public option that keeps it on loopback",
    ("vitseg/training/muon.py", "_foreach_lerp_"): "torch's optimizers are built on these; they have no public names",
    ("vitseg/training/muon.py", "_foreach_lerp"): "see above",
    ("vitseg/training/muon.py", "_foreach_mul_"): "see above",
    ("vitseg/training/muon.py", "_foreach_mul"): "see above",
    ("vitseg/training/muon.py", "_foreach_add_"): "see above",
}
"""Private names of other libraries that a file may use, and why nothing public does."""

UNMIRRORED: dict[str, str] = {
    "vitseg/metrics/result.py": "tests/test_evaluation.py checks what evaluations find",
    "flows/cli/demo.py": "tests/flows/test_demo.py runs the flow, tests/flows/cli/test_killed.py the command",
    "flows/cli/registry.py": "tests/flows/test_retrain.py and tests/registry run its commands",
    "flows/cli/segment.py": "tests/flows/test_segment.py runs the command",
    "flows/cli/stack.py": "tests/flows/stack/test_stack.py runs its commands",
    "flows/train.py": "whole trainings: tests/flows/test_retrain.py and test_pretrain.py",
    "vitseg/synth/canvas.py": "what it draws is seen in whole scenes: tests/synth/test_scene.py",
    "vitseg/synth/objects.py": "what it draws is seen in whole scenes: tests/synth/test_scene.py",
    "vitseg/training/agent.py": "tests/flows/cli/test_killed.py kills agents",
    "vitseg/training/objectives/base.py": "the interface of the objectives beside it",
    "vitseg/training/worker.py": "whole ranks: test_launch, test_ranks and objectives/",
}
"""Source files without a test file of their own, and why."""

ACROSS = {
    "tests/flows/cli/test_killed.py": "whole commands that are killed",
    "tests/flows/test_images.py": "the whole way for pairs of images, by real commands",
    "tests/flows/test_secrets.py": "credentials in what all commands write and print",
    "tests/flows/test_without_servers.py": "commands on a machine without servers",
    "tests/data/test_faults.py": "a store that fails, under plan, shards and commit",
    "tests/inference/test_faults.py": "a store that fails, under a whole job",
    "tests/inference/test_large.py": "a photograph of 100 million pixels, from bytes to mask",
    "tests/training/test_ranks.py": "trainings of several ranks, by the launcher and the loop",
    "tests/model/test_no_convolution.py": "every network that a recipe can ask for",
    "tests/infra/": "files of infra/, which are no modules",
    "tests/odd/": "odd input under all that reads it",
    "tests/looks/": "pages as a browser shows them",
    "tests/test_architecture.py": "all sources",
    "tests/test_cuda.py": "all that a GPU changes",
    "tests/test_pyproject.py": "the packages that are listed and pinned",
    "tests/test_readme.py": "what README files name, and their example",
}
"""Test files that belong to no single source file, and why."""


def part(path: Path) -> str:
    """Return `data` for vitseg/data/loader.py, `losses` for vitseg/losses.py."""
    return path.relative_to(ROOT / "vitseg").parts[0].removesuffix(".py")


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


def test_imports_go_in_no_circle_not_even_inside_functions() -> None:
    assert circles(import_graph()) == []


def test_circles_are_found() -> None:
    graph: dict[str, set[str]] = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [{"a", "b", "c"}, {"d", "e"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_rooms_import_each_other_in_one_direction_only() -> None:
    rooms: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, others in import_graph().items():
        rooms[room(name)] |= {room(other) for other in others} - {room(name)}
    assert circles(rooms) == []
    for name, others in FLOW_ROOMS.items():
        assert {other for other in rooms[name] if other.startswith("flows")} <= others, name
    assert {name for name in rooms if name.startswith("flows")} == FLOW_ROOMS.keys()


def room(module: str) -> str:
    """Return `vitseg.data` for vitseg.data.loader, `flows.cli` for flows.cli.app, and `flows` for flows.train."""
    name = ".".join(module.split(".")[:2])
    return name if name.startswith("vitseg") or MODULES[name].name == "__init__.py" else "flows"


def test_private_names_of_others_are_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import a._b\nfrom c import _d\ne._f\ng(_h=1)\n{'_i': 1}\nself._j = self._j\n_k = __name__, '_l', _k"
    )
    assert private_names(file) == {"_b", "_d", "_f", "_h", "_i"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_private_names_stay_where_they_are_defined(path: Path) -> None:
    """Another library may rename its own with any release, and another file of ours should not have to know of them."""
    used = private_names(path) - {"_exit"}  # os._exit is documented
    assert used == {name for where, name in PRIVATE if where == relative(path)}  # nor does the list name what is gone


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=relative)
def test_every_source_file_has_a_test_file_or_a_reason(path: Path) -> None:
    assert mirror(path).exists() != (relative(path) in UNMIRRORED), (
        f"write {relative(mirror(path))}, or give a reason in UNMIRRORED; not both"
    )


def test_every_test_file_mirrors_a_source_file_or_has_a_reason() -> None:
    """test_shards.py and test_shards_races.py both mirror shards.py."""
    mirrors = {relative(mirror(path)).removesuffix(".py") for path in SOURCES}
    for path in ROOT.glob("tests/**/test_*.py"):
        parts = path.stem.split("_")
        names = {relative(path.with_name("_".join(parts[:end]))) for end in range(2, len(parts) + 1)}
        assert names & mirrors or relative(path).startswith(tuple(ACROSS)), f"{relative(path)}: no such source file"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("prefect", ["flows"]),
        ("flows", ["flows"]),
        ("mlflow", ["vitseg/registry"]),
        ("torch.distributed", ["vitseg/dist.py"]),
        ("boto3", ["vitseg/storage/s3_client.py"]),
        ("s3fs", ["vitseg/storage/s3_client.py"]),
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
@pytest.mark.parametrize("preset", PRESETS)
def test_no_model_contains_a_convolution(preset: str, target: str) -> None:
    with torch.device("meta"):
        model = build_model(load_recipe(preset, overrides=[f"model.target={target}"]).model, (256, 256), 19, seed=0)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not [kind for kind in kinds if "conv" in kind.lower()]


def test_model_sources_call_no_convolution() -> None:
    for path in set(ROOT.glob("vitseg/model/*.py")) - {ROOT / "vitseg/model/summary.py"}:  # which counts them
        names = [getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(ast.parse(path.read_text()))]
        own = ("ConvolutionalArchitecture", "ConvolutionalDecoder")  # of old bundles
        assert not [name for name in names if name.lower().startswith("conv") and name not in own], path.name


def test_a_command_line_that_is_only_read_starts_at_once() -> None:
    """Each worker process of a job imports it, too: torch here cost every one of them a second and its memory."""
    heavy = ["torch", "prefect", "pydantic", "mlflow", "boto3"]
    code = f"import sys, flows.cli; print([name for name in {heavy} if name in sys.modules])"
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
    assert here - {"__init__", "__pycache__"} == FLOOR_OF.keys()
    text = (ROOT / "vitseg/__init__.py").read_text()
    assert not [name for name in FLOOR_OF if name not in text]


@pytest.mark.parametrize("package", [path for path in SOURCES if path.name == "__init__.py"], ids=relative)
def test_the_docstring_of_a_package_names_its_modules(package: Path) -> None:
    modules = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in package.parent.glob("*/__init__.py")}
    words = set(re.findall(r"\w+", ast.get_docstring(ast.parse(package.read_text())) or ""))
    assert modules | packages <= words, f"{relative(package)} leaves out {sorted((modules | packages) - words)}"
