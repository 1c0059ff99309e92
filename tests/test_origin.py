"""Which licenses allow any use, and what is said of the others."""

import pytest

from vitseg.origin import Origin


@pytest.mark.parametrize("name", ["apache-2.0", "mit", "MIT License", "Apache License", "bsd-3-clause", "CC0-1.0"])
def test_permissive_licenses_need_no_warning(name: str) -> None:
    assert Origin(license=name).is_permissive
    assert Origin(license=name).license_words() == f"license {name}"


@pytest.mark.parametrize("name", ["dinov3-license", "cc-by-nc-4.0", "other", "gpl-3.0", "mitra"])
def test_others_are_said_plainly(name: str) -> None:
    assert Origin(license=name).license_words() == f"license {name}, not a permissive one: read its terms"


def test_an_unknown_license_is_not_taken_for_a_permissive_one() -> None:
    assert not Origin().is_permissive
    assert Origin().license_words().startswith("license unknown")
