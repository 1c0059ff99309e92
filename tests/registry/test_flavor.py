from vitseg.inference.pyfunc import load_predictor
from vitseg.registry import flavor


def test_versions_registered_by_earlier_releases_find_their_loader():
    """Their MLmodel file says `loader_module: vitseg.registry.flavor`."""
    assert flavor._load_pyfunc is load_predictor
