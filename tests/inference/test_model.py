from types import SimpleNamespace

import pytest

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.job import ModelRef
from vitseg.inference.model import _loaded, load_once
from vitseg.registry import versions

from .color_rule import SHA256, model


def test_a_worker_that_lacks_the_folder_fetches_the_version(rule, tmp_path, monkeypatch):
    asked = []

    def open_model(address):
        asked.append(address)
        return SimpleNamespace(), tmp_path

    monkeypatch.setattr(versions, "open_model", open_model)
    elsewhere = ModelRef(name="streets", version="3", sha256=SHA256, folder=str(tmp_path / "of-another-machine"))
    assert load_once(elsewhere) is rule
    assert load_once(elsewhere) is rule
    assert asked == ["models:/streets/3"]
    assert load_once(model()) is rule  # this one is here
    assert asked == ["models:/streets/3"]


def test_what_is_fetched_must_be_what_was_planned(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "open_model", lambda address: (SimpleNamespace(), tmp_path))
    with pytest.raises(DataError, match="was planned"):
        load_once(ModelRef(name="streets", version="3", sha256="b" * 64, folder="nowhere"))


def test_a_folder_of_ones_own_is_in_no_registry(tmp_path):
    _loaded.cache_clear()
    with pytest.raises(NotFoundError, match="nowhere"):
        load_once(ModelRef(name="bundle", version="local", sha256=SHA256, folder=str(tmp_path / "nowhere")))
