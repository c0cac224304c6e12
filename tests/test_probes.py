"""The page on linear probes runs as it is printed."""

import doctest
from pathlib import Path


def test_the_protocols_run_as_documented():
    page = Path(__file__).parents[1] / "docs" / "probes.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert (failed, tried) == (0, 18)
