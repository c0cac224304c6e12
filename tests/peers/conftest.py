import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Marks in SciPy's tests, which its own configuration defines.
    for name in ("skip_xp_backends", "xfail_xp_backends"):
        config.addinivalue_line("markers", f"{name}: array libraries on which a test of SciPy's cannot run")
