"""JSON of stores and registries: what comes from outside may hold anything, and whatever is wrong becomes a DataError."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from vitseg.errors import DataError


def parse_json(data: bytes) -> Any:
    """Parse JSON; DataError: it is no JSON, no UTF-8, or nested too deep."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from error


def to_json_bytes(value: Any, **options: Any) -> bytes:
    """Return JSON as UTF-8 that `parse_json` reads back: bytes of names that are no UTF-8 stay the escapes that they are."""
    return json.dumps(value, ensure_ascii=False, **options).encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def malformed_as_data_error() -> Iterator[None]:
    """Turn what missing keys and values of the wrong form raise into a DataError; a decorator for `from_json`."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"key {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"a value has the wrong form: {error}") from error
