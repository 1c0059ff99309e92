"""Published weights from the Hugging Face hub, over https, into its own cache; needs the extra `vitseg[hf]`."""

import logging
import re
from pathlib import Path

from vitseg.errors import AccessError, NotFoundError, StorageError, UsageError

SCHEME = "hf:"
WEIGHTS = "model.safetensors"
SIDECARS = ("config.json", "preprocessor_config.json")
_ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


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


def download(address: str) -> Path:
    """Return the folder of a published model's files, from the cache where they are there; sidecars may be missing.

    Raises:
        UsageError: see `check_hub_address`.
        NotFoundError: no such repository or revision, or no safetensors in it.
        AccessError: the repository asks for a token.
        StorageError: the hub can't be reached, and the file is not in the cache.
    """
    repo, revision = check_hub_address(address)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # of failures and retries: errors are one line here
    weights, *_ = [_file(address, repo, name, revision) for name in (WEIGHTS, *SIDECARS)]
    assert weights is not None
    return weights.parent


def _file(address: str, repo: str, name: str, revision: str | None) -> Path | None:
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
        if name != WEIGHTS:
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
