"""Help pages: one form for all of them, and a width that every terminal has."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from flows.cli.app import app
from vitseg.errors import UsageError


def commands(command: Any, *words: str) -> Iterator[tuple[list[str], Any]]:
    """Yield every command and group of commands, with the words that call it."""
    yield [*words], command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *words, name)


COMMANDS = list(commands(typer.main.get_command(app)))
PARAMETERS = [parameter for _, command in COMMANDS for parameter in command.params]


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) or "vitseg" for words, _ in COMMANDS])
def test_a_help_page_begins_with_a_sentence_and_fits_80_columns(
    words: list[str], command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.help.endswith(".")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    with pytest.raises(SystemExit):
        app([*words, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_every_option_is_explained_by_one_sentence() -> None:
    for parameter in PARAMETERS:
        assert parameter.help[0].isupper(), parameter.name
        assert parameter.help.endswith("."), parameter.name
        assert "default" not in parameter.help, f"{parameter.name}: the default is shown beside it"


def test_an_option_has_one_help_text_in_all_commands() -> None:
    texts: dict[str, set[str]] = {}
    for parameter in PARAMETERS:
        texts.setdefault(parameter.opts[0], set()).add(parameter.help)
    several = {name for name, found in texts.items() if len(found) > 1}
    # Written or read; a user of the registry, or who decides; a model to promote to, or a format to export to.
    assert several == {"--shards", "--reviewer", "--to"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "nowhere", "--name", "a/b"],
        ["train", "nowhere", "--name", ""],
        ["train", "nowhere", "--name", "x?y#z"],
        ["train-node", "nowhere", "--nnodes", "2", "--rendezvous", "a:1", "--name", "a:b"],
        ["retrain", "nowhere", "--name", "a%b"],
        ["retrain", "nowhere", "--to", "a/b"],
        ["registry", "assess", "1", "--to", "a/b"],
        ["registry", "promote", "1", "--reviewer", "ada", "--reason", "good", "--name", " a"],
        ["registry", "list", "--name", "a@b"],
        ["registry", "show", "1st"],
        ["registry", "team", "--approved", "a/b"],
        ["segment", "nowhere", "masks", "--model", "models:/a?b/1"],
        ["segment", "nowhere", "masks", "--model", "models:/vitseg@latest"],
        ["evaluate", "models:/vitseg@v1", "nowhere"],
    ],
    ids=" ".join,
)
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_read(sqlite: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        app(words)
    assert len(str(caught.value).splitlines()) == 1
