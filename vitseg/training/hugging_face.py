"""Published weights from the Hugging Face hub, over https, into its own cache; needs the extra `vitseg[hf]`."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from vitseg.errors import AccessError, NotFoundError, StorageError, UsageError

SCHEME = "hf:"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Of weights in several files: which holds which tensor."""
SIDECARS = ("config.json", "preprocessor_config.json")
_CARD = "README.md"
_ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


class Download(NamedTuple):
    """Files of one commit of a repository ("": unknown), and the license that it names ("": none)."""

    folder: Path
    commit: str
    license: str


def check_hub_address(address: str) -> tuple[str, str | None]:
    """Return repository and revision of `hf:OWNER/NAME[@REVISION]`.

    Raises:
        UsageError: it is something else, or huggingface_hub is not installed.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"{address}: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{address} needs huggingface_hub: pip install 'vitseg[hf]', or give --init a local {WEIGHTS}"
        ) from error
    return match["repo"], match["revision"]


def download(address: str) -> Download:
    """Return a published model's files, from the cache where they are there; all but its weights may be missing.

    Of weights in several files, each is fetched by `download_part`.

    Raises:
        UsageError: see `check_hub_address`.
        NotFoundError: no such repository or revision, or no safetensors in it.
        AccessError: the repository asks for a token.
        StorageError: the hub can't be reached, and the file is not in the cache.
    """
    repo, revision = check_hub_address(address)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # of failures and retries: errors are one line here
    weights = _file(address, repo, WEIGHTS, revision, optional=True)
    weights = weights or _file(address, repo, INDEX, revision)
    assert weights is not None
    folder = weights.parent
    commit = folder.name if _COMMIT.fullmatch(folder.name) else ""  # the cache has a folder for each commit
    revision = commit or revision  # everything from the same commit, whatever is pushed meanwhile
    *_, card = [_file(address, repo, name, revision, optional=True) for name in (*SIDECARS, _CARD)]
    return Download(folder, commit, _license(card) if card else "")


def download_part(address: str, commit: str, name: str) -> None:
    """Fetch one of several files of weights into the folder of `download`; it raises the same."""
    repo, revision = check_hub_address(address)
    _file(address, repo, name, commit or revision)


def _license(card: Path) -> str:
    """Return the license in the metadata of a repository's card."""
    from huggingface_hub import metadata_load

    try:
        found = metadata_load(card) or {}
    except Exception:  # noqa: BLE001 - whatever YAML holds: a card that can't be read names no license
        return ""
    name = found.get("license")
    name = found.get("license_name", name) if name == "other" else name
    return name if isinstance(name, str) else ", ".join(map(str, name or ()))


def _file(address: str, repo: str, name: str, revision: str | None, *, optional: bool = False) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except GatedRepoError as error:
        raise AccessError(f"{address} asks for consent: accept its terms on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFoundError(
            f"{address} does not exist on the hub, or needs a token: check its name, or set HF_TOKEN"
        ) from error
    except EntryNotFoundError as error:
        if optional:
            return None  # also offline, with weights in the cache that came without it
        if isinstance(error, LocalEntryNotFoundError):
            raise StorageError(
                f"{address} can't be fetched: the hub can't be reached, and it is not in the cache; "
                f"download {WEIGHTS} elsewhere and name the file: --init path/to/{WEIGHTS}"
            ) from error
        raise NotFoundError(f"{address} has no {WEIGHTS}: other formats can run code and are not read") from error
    except Exception as error:  # its transports raise their own errors, which change by release
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(f"{address} can't be fetched ({first[:200]}): a local {WEIGHTS} works without it") from error
