import sqlite3

import pytest

from vitseg.data.temporary_database import TemporaryDatabase, on_disk, packed, unpacked
from vitseg.errors import StoreFullError


@pytest.mark.parametrize("text", ["", "straße/雪", "no \udcff UTF-8"])
def test_any_name_comes_back(text):
    assert unpacked(packed(text)) == text


def test_each_database_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    one, other = TemporaryDatabase(), TemporaryDatabase()
    one.execute("CREATE TABLE names (name)")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        other.execute("SELECT * FROM names")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_what_to_do():
    table = TemporaryDatabase()
    table.execute("PRAGMA max_page_count = 2")
    with pytest.raises(StoreFullError, match="set TMPDIR"), on_disk():
        table.execute("CREATE TABLE names AS SELECT randomblob(100000) AS name")
    with pytest.raises(sqlite3.OperationalError), on_disk():
        table.execute("no SQL")
