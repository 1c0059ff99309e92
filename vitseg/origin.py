"""Where published weights came from, and their license: both go with every model that is made of them."""

import re
from dataclasses import dataclass

_PERMISSIVE = re.compile(r"(the )?(apache|mit|bsd|isc|cc0|cc-by-4\.0|unlicense|zlib)\b", re.IGNORECASE)
"""How the names of licenses begin that allow any use, as the hub and files write them."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Published weights; all empty for a network that began with random numbers."""

    address: str = ""
    family: str = ""
    """What they are, in words: an architecture and who trained it, as far as known."""
    commit: str = ""
    """Of their repository on the hub."""
    sha256: str = ""
    """Of the published file, or of its parts one after another."""
    license: str = ""
    """As published; "": unknown."""

    @property
    def is_permissive(self) -> bool:
        """Return whether the license is known to allow any use."""
        return _PERMISSIVE.match(self.license) is not None

    def license_words(self) -> str:
        """Return what a person has to know of the license before they use a model that is made of these weights."""
        if not self.license:
            return "license unknown: look it up before you use the model"
        return f"license {self.license}" + ("" if self.is_permissive else ", not a permissive one: read its terms")
