"""The Hugging Face hub: which commit and license weights have, what works without it, and what is told in one line.

The hub is a fake, but where its cache is read, it is huggingface_hub's own.
"""

import sys
from pathlib import Path

import pytest

from vitseg.errors import NotFoundError, StorageError, UsageError
from vitseg.training import hugging_face
from vitseg.training.start_address import read_start

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: other\nlicense_name: dinov3-license\ntags: [x]\n---\n# A model\n"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: Path) -> Path:
    """The folder of a commit in a cache, as huggingface_hub writes it, with neither config nor card; no hub."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    root = tmp_path / "hub"
    repo = root / "models--facebook--vit"
    folder, blob = repo / "snapshots" / COMMIT, repo / "blobs" / "b10b"
    for place in (folder, blob.parent, repo / "refs"):
        place.mkdir(parents=True)
    blob.write_bytes(published.read_bytes())
    (folder / "model.safetensors").symlink_to(blob)
    (repo / "refs" / "main").write_text(COMMIT)
    real = huggingface_hub.hf_hub_download

    def offline(repo_id: str, name: str, revision: str | None) -> str:
        return real(repo_id, name, revision=revision, cache_dir=root, local_files_only=True)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    return folder


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_the_cache_is_enough_and_tells_the_commit(cache: Path, published: Path, revision: str) -> None:
    start = read_start(f"hf:facebook/vit{revision}")
    assert start.origin.commit == COMMIT
    assert start.origin.sha256 == read_start(str(published)).origin.sha256
    assert start.origin.license == ""


def test_the_license_is_that_of_the_card(cache: Path) -> None:
    (cache / "README.md").write_text(CARD)
    origin = read_start("hf:facebook/vit").origin
    assert (origin.license, origin.is_permissive) == ("dinov3-license", False)
    assert origin.license_words() == "license dinov3-license, not a permissive one: read its terms"
    (cache / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert read_start("hf:facebook/vit").origin.is_permissive
    for card in ("no metadata", "---\n- [broken\n---\n"):
        (cache / "README.md").write_text(card)
        assert read_start("hf:facebook/vit").origin.license_words().startswith("license unknown")


def test_what_is_not_in_the_cache_is_told_in_one_line_without_the_hub(cache: Path) -> None:
    for address in ("hf:facebook/other", "hf:facebook/vit@" + "1" * 40):
        with pytest.raises(StorageError, match=r"can't be reached.*--init path/to/model.safetensors") as caught:
            read_start(address)
        assert "\n" not in str(caught.value)


def test_all_files_are_of_the_commit_of_the_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[tuple[str, str | None]] = []

    def online(repo: str, name: str, revision: str | None) -> str:
        asked.append((name, revision))
        if not (cache / name).exists():
            raise EntryNotFoundError(name)
        return str(cache / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", online)
    read_start("hf:facebook/vit@main")
    assert asked[0] == ("model.safetensors", "main")
    assert {revision for _, revision in asked[1:]} == {COMMIT}
    assert "README.md" in {name for name, _ in asked}
    (cache / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="other formats can run code"):
        read_start("hf:facebook/vit")
    (cache / "model.safetensors.index.json").write_text('{"weight_map": {"x": "part.safetensors"}}')
    asked.clear()
    with pytest.raises(NotFoundError, match="other formats"):
        read_start("hf:facebook/vit")
    assert asked[-1] == ("part.safetensors", COMMIT)


def test_the_hub_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'vitseg\[hf\]'"):
        hugging_face.check_hub_address("hf:google/vit-base-patch16-224")
