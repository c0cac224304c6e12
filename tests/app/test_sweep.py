"""``softhead train --sweep``: the penalty chosen by cross-validation."""

import json

import numpy as np
import pytest
from app.test_cli import softhead_command

from softhead import SoftmaxClassifier, SoftmaxClassifierCV
from softhead.app import training
from softhead.app.datasets import load_data
from softhead.model_file import read_model
from softhead.tables import TableEncoder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sweep_is_printed_and_its_choice_saved():
    out, err = softhead_command("train", "wine", "--sweep", "--Cs", "10,0.001,1", "--cv", 3)
    assert err == ""
    head, *lines = out.splitlines()[:4]
    assert head.split() == ["C", "log", "loss", "relative", "gap"]
    assert [float(line.split()[0]) for line in lines] == [0.001, 1.0, 10.0]
    losses = [float(line.split()[1]) for line in lines]
    (chosen,) = (line for line in lines if line.endswith("chosen"))
    assert float(chosen.split()[1]) == min(losses)
    shown = json.loads(softhead_command("info", "wine.safetensors", "--json")[0])
    assert shown["C"] == float(chosen.split()[0])
    assert (shown["steps"], shown["status"]) == (["TableEncoder", "SoftmaxClassifier"], "converged")
    again = json.loads(softhead_command("evaluate", "wine.safetensors", "wine", "--json")[0])
    assert "held out" in again["scored"]
    assert again["accuracy"] > 0.9


def test_held_out_rows_have_no_part_in_the_choice_and_json_tells_all():
    out = json.loads(softhead_command("train", "iris", "--sweep", "--Cs", 4, "--json")[0])
    data = load_data("iris", target=None, features=None)
    held_out = training.hold_out(data.target, test_size=0.2, seed=0)
    encoder = TableEncoder()
    rows = np.flatnonzero(~held_out)
    encoder.fit(data.features[rows] if isinstance(data.features, np.ndarray) else data.features.take(rows))
    search = SoftmaxClassifierCV(4).fit(encoder.transform(data.features)[rows], data.target[rows])
    assert [point["C"] for point in out["sweep"]] == pytest.approx(np.geomspace(1e-4, 1e4, 4))
    assert [point["log_loss"] for point in out["sweep"]] == pytest.approx(-search.scores_.mean(axis=(0, 1)), rel=1e-9)
    assert [point["C"] for point in out["sweep"] if point["chosen"]] == [out["C"]] == [search.C_]
    assert all(0.0 <= point["gap"] <= 1e-4 for point in out["sweep"])
    assert [point["log_loss_std"] for point in out["sweep"]] == pytest.approx(search.scores_.std(axis=(0, 1)), rel=1e-9)
    norms = search.coef_norms_.mean(axis=(0, 1))
    assert [point["coef_norm"] for point in out["sweep"]] == pytest.approx(norms, rel=1e-6)
    stored = read_model("iris.safetensors")
    assert training.Record.read(stored.record).sweep == out["sweep"]
    model = stored.model[-1]
    assert type(model) is SoftmaxClassifier
    np.testing.assert_array_equal(model.coef_, search.coef_)


@pytest.mark.parametrize(
    "options",
    [("--sweep", "--C", "3"), ("--Cs", "5"), ("--cv", "3"), ("--sweep", "--Cs", "0"), ("--sweep", "--Cs", "1,x")],
)
def test_options_that_say_two_things_are_refused(options):
    assert "Invalid value" in softhead_command("train", "iris", *options, code=2)[1]


@pytest.mark.parametrize("sweep", [3, [3], [{"C": 1.0}], "x"])
def test_a_record_whose_sweep_is_none_of_ours_is_not_read(sweep):
    softhead_command("train", "iris")
    record = read_model("iris.safetensors").record
    assert training.Record.read(record).sweep is None
    assert training.Record.read({name: record[name] for name in record if name != "sweep"}) is not None
    assert training.Record.read(record | {"sweep": sweep}) is None
