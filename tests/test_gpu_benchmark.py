"""The benchmark for a GPU, on CPU tensors of small sizes: that every part runs and writes what it found."""

import json
import sys
from pathlib import Path

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
