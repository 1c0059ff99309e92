"""What the READMEs name exists: paths, links, commands, options, recipe keys, imports; and the front page's example runs."""

import ast
import importlib
import itertools
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

from flows.cli.app import app
from tests.registry.conftest import write_bundle
from vitseg.config import load_recipe
from vitseg.registry import tracking, versions

ROOT = Path(__file__).parent.parent
FOLDERS = ("vitseg", "flows", "infra", "tests", ".github", ".ci")
PAGES = [*sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")), ROOT / "README.md"]
MADE_BY_THE_RUNBOOK = ("infra/.env", "infra/backup")
ENDS_A_CALL = ("&&", "||", "|", ">")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def calls(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of each call of a program, in shell blocks and in inline code."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose(page))]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that another line closes
            words = line.split()
        for place, word in enumerate(words):
            before = words[place - 1] if place else "&&"
            if Path(word).name == program and (before in (*ENDS_A_CALL, "do", "cpu-worker") or "=" in before):
                found.append(list(itertools.takewhile(lambda word: word not in ENDS_A_CALL, words[place + 1 :])))
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings have."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if not path.startswith("https://"):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@every_page
def test_paths_exist(page: Path) -> None:
    folders = "|".join(map(re.escape, FOLDERS))
    for path in re.findall(rf"(?<![\w/.:-])((?:{folders})/[\w./-]*\w)", page.read_text()):
        assert (ROOT / path).exists() or path.startswith(MADE_BY_THE_RUNBOOK), path


@every_page
def test_commands_options_and_recipe_keys_exist(page: Path) -> None:
    for words in calls(page, "vitseg"):
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and words and words[0].islower() and not words[0].startswith("--"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        if command.name == "run":
            continue  # what follows are the words of another program
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.rstrip(";") for word in words if word.startswith("--")} <= {*known, "--help"}, words
        recipe = [after for word, after in itertools.pairwise(words) if word == "--set"]
        load_recipe("small", overrides=recipe)


@every_page
def test_make_has_the_targets(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in calls(page, "make"):
        assert {word for word in words if "=" not in word} <= {*targets}, words


@every_page
def test_python_blocks_import_what_exists(page: Path) -> None:
    for node in [node for block in blocks(page, "python") for node in ast.parse(block).body]:
        if isinstance(node, ast.ImportFrom):
            assert node.module
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_example_of_the_front_page_runs(sqlite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    bundle = write_bundle(tmp_path / "bundle")
    run_id = tracking.start_run("test", {}, {})
    versions.register(bundle, name="vitseg-demo", run_id=run_id, tags={"review": "pending"}, description="")
    scene = Path("vitseg-demo/scenes/leftImg8bit/val/a/a_000000_000000_leftImg8bit.png")
    scene.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(scene)
    Path("example.py").write_text(example)
    assert runpy.run_path("example.py")["mask"].shape == (40, 52)
    assert "road" in capsys.readouterr().out


def test_every_page_is_checked() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {ROOT / line for line in listed.stdout.splitlines()} <= set(PAGES)
