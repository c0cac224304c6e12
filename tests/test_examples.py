"""The programs in examples/, in a small setting: what they show is asserted."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")


def program(name):
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_language_model_trains_to_the_same_curve(capsys):
    theirs, ours = program("language_model_head").main(steps=8, width=24, batch=64)
    assert (theirs - ours).abs().max() < 1e-4
    assert ours[-1] < ours[0] - 0.1
    assert "largest difference at any step" in capsys.readouterr().out


def test_a_probe_becomes_the_head_of_its_model(capsys, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    accuracy, agreement = program("probe_torch").main(steps=10)
    assert accuracy > 0.85
    assert agreement == 1.0
    assert "probe: converged" in capsys.readouterr().out
