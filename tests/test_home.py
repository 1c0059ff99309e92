"""The folder for state on this machine."""

from pathlib import Path

import pytest

from vitseg.home import home


def test_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITSEG_HOME", "state")
    assert home() == tmp_path / "state"
    monkeypatch.delenv("VITSEG_HOME")
    assert home() == tmp_path / ".vitseg"
