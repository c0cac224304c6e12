"""The benchmark for a GPU, on CPU tensors of small sizes: that every part runs and writes what it found."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.filterwarnings("ignore")  # of the contestants: PyTorch's chunked loss warns that it is not worth it here
def test_every_part_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # which the script sets
    import gpu
    import gpu_checks
    import gpu_linear
    import gpu_rows

    for module, name in ((gpu_checks, "WIDTHS"), (gpu_linear, "ROWS"), (gpu_rows, "WIDTHS")):
        assert getattr(module, name)
    monkeypatch.setattr(gpu_checks, "CHECKS", (gpu_checks.confident, gpu_checks.hazards, gpu_checks.strides))
    arguments = ["gpu.py", "--device", "cpu", "--tiny", "--seconds", "4", "--tune", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()
    (file,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["part"] for line in lines} == {"machine", *gpu.PARTS}
    assert not [line for line in lines if line.get("error")]
    checks = [line for line in lines if "check" in line]
    assert len(checks) > 8
    assert all(line["ok"] for line in checks), checks
    assert all(line["ms"] > 0 for line in lines if "ms" in line)
    assert "## linear" in capsys.readouterr().out


def test_what_is_missing_or_late_costs_only_itself(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    def late(session):
        session.record(known=1)
        try:
            time.sleep(60)
        except Exception:
            session.record(known=2)  # of a contestant, not of the whole call

    monkeypatch.setitem(sys.modules, "late", SimpleNamespace(run=late))
    monkeypatch.setitem(gpu.PARTS, "checks", ("not_there", "run"))
    monkeypatch.setitem(gpu.PARTS, "rows", ("late", "run"))
    arguments = ["gpu.py", "--device", "cpu", "--tiny", "--limit", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "checks", "ceilings", "rows", "probe"])
    gpu.main()
    (file,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    errors = {line["part"]: line["error"] for line in lines if "error" in line}
    assert errors.keys() == {"checks", "rows"}
    assert errors["checks"].startswith("ModuleNotFoundError")
    assert errors["rows"] == "broken off: the call has had its 1 s"
    assert [line["known"] for line in lines if "known" in line] == [1]
    assert [line for line in lines if line["part"] == "ceilings" and "rate" in line]
    assert "## probe" in capsys.readouterr().out


def test_a_probe_is_fitted_without_the_classifier_too(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu
    import gpu_probe

    monkeypatch.setitem(sys.modules, "softhead.estimator", None)  # importing it is an ImportError
    with (tmp_path / "lines").open("w") as file:
        session = gpu.Session("cpu", True, 4.0, file)
        gpu_probe.run(session)
    missing, fit = session.lines
    assert "softhead.estimator" in missing["why"]
    assert fit["status"] == "converged"
    assert fit["gap"] <= 1e-4


WITHOUT_NUMBA = """
import sys
import importlib.util
import gpu_without_numba
find_spec, importlib.util.find_spec = importlib.util.find_spec, lambda name: None  # as if there were none
assert gpu_without_numba.stand_in()
importlib.util.find_spec = find_spec
sys.meta_path.insert(0, sys.meta_path.pop())
import numpy as np, torch
import softhead.estimator, softhead.torch
from softhead.linear.solver import solve
from softhead.torch.objective import TensorObjective
X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
objective = TensorObjective(X, (X[:, 0] > X[:, 1]).long(), n_classes=2, l2=1e-2)
assert not hasattr(sys.modules["numba"], "__file__")
print(solve(objective, objective.zeros(), tol=1e-6, max_iter=50).status)
"""


def test_a_fit_to_tensors_needs_no_numba():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], cwd=BENCHMARKS, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("converged\n", 0), done.stderr
