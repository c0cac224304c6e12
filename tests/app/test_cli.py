"""The command line as a user meets it: results, files, messages and exit codes."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from sklearn.datasets import load_digits, load_wine
from typer.testing import CliRunner

import softhead
from softhead.app import cli, training
from softhead.app.datasets import load_data
from softhead.app.display import write_columns
from softhead.model_file import read_model, write_model


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def softhead_command(*arguments, code=0):
    """Run a command in this process; return its standard output and error."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    if code == 1:
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, "one line on stderr"
        assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def mixed_table(n=300, seed=0):
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], n)
    size = rng.normal(size=n)
    label = np.where((colour == "red") | (size > 0.8), "big", "small").astype(object)
    size[::17] = np.nan
    day = np.datetime64("2024-01-01") + rng.integers(0, 400, n).astype("timedelta64[D]")
    code = [f"{i:03d}" for i in rng.integers(0, 20, n)]
    return pa.table(
        {
            "colour": colour,
            "size": pa.array(size, from_pandas=True),
            "day": pa.array(day),
            "code": code,
            "label": label,
        }
    )


@pytest.fixture
def table(tmp_path):
    data = mixed_table()
    csv.write_csv(data, tmp_path / "mixed.csv")
    return data


def test_digits_are_trained_evaluated_and_predicted():
    out, err = softhead_command("train", "digits", "--json")
    trained = json.loads(out)
    assert err == ""
    assert trained["accuracy"] > 0.95
    assert trained["gap"] <= 1e-4 * trained["objective"]
    assert (trained["rows"] + trained["rows_tested"], trained["classes"], trained["features"]) == (1797, 10, 64)
    assert trained["model"] == "digits.safetensors"

    again = json.loads(softhead_command("evaluate", "digits.safetensors", "digits", "--json")[0])
    assert "held out" in again["scored"]
    for name in ("rows_tested", "accuracy", "log_loss", "calibration_error"):
        assert again[name] == trained[name]

    softhead_command("predict", "digits.safetensors", "digits", "-o", "out.parquet", "--probabilities")
    predicted = parquet.read_table("out.parquet").to_pandas()
    model = softhead.load("digits.safetensors")
    images, digits = load_digits().images, load_digits().target
    assert predicted["label"].dtype == np.int64
    np.testing.assert_array_equal(predicted["label"], model.predict(images))
    columns = [f"probability_{digit}" for digit in range(10)]
    np.testing.assert_array_equal(predicted[columns], model.predict_proba(images))
    np.testing.assert_array_equal(predicted["probability"], predicted[columns].max(axis=1))
    assert (predicted["label"] == digits).mean() > 0.97


def test_the_summary_is_for_reading():
    out, _ = softhead_command("train", "iris", "--out", "flowers.safetensors")
    rows = dict(line.split(maxsplit=1) for line in out.replace("calibration error", "calibration_error").splitlines())
    assert rows["model"].strip() == "flowers.safetensors"
    assert rows["status"].strip() == "converged"
    assert 0 < float(rows["calibration_error"]) < 0.2
    out, _ = softhead_command("info", "flowers.safetensors")
    assert "TableEncoder, SoftmaxClassifier" in out
    assert "setosa, versicolor, virginica" in out
    assert "petal length (cm)" in out
    assert json.loads(softhead_command("info", "flowers.safetensors", "--json")[0])["rows_held_out"] == 30


def test_quiet_says_nothing():
    assert softhead_command("train", "iris", "--quiet") == ("", "")
    assert os.listdir() == ["iris.safetensors"]


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_bundled_tables_train(name):
    trained = json.loads(softhead_command("train", name, "--json")[0])
    assert trained["accuracy"] > 0.9
    assert trained["status"] == "converged"


def test_a_mixed_table_survives_reordered_columns_and_formats(table):
    trained = json.loads(softhead_command("train", "mixed.csv", "--target", "label", "--json")[0])
    assert trained["accuracy"] > 0.8
    rows = table.select(["code", "label", "size", "day", "colour"]).append_column("extra", pa.array(range(300)))
    csv.write_csv(rows, "reordered.csv")
    parquet.write_table(table.drop_columns(["label"]), "unlabelled.parquet")
    outputs = []
    for source in ("mixed.csv", "reordered.csv", "unlabelled.parquet"):
        softhead_command("predict", "mixed.safetensors", source, "-o", "out.csv", "--probabilities")
        outputs.append(csv.read_csv("out.csv"))
    assert outputs[0].equals(outputs[1])
    assert outputs[0].equals(outputs[2])
    assert outputs[0].column_names == ["label", "probability", "probability_big", "probability_small"]
    assert set(outputs[0]["label"].to_pylist()) == {"big", "small"}
    # The very table, in another order of columns and another format: known again, and only its held-out rows scored.
    parquet.write_table(rows, "reordered.parquet")
    for source in ("mixed.csv", "reordered.parquet"):
        again = json.loads(softhead_command("evaluate", "mixed.safetensors", source, "--json")[0])
        assert (again["rows_tested"], again["log_loss"]) == (trained["rows_tested"], trained["log_loss"])
    # Some of its rows are another table: all are scored.
    csv.write_csv(table.slice(0, 100), "part.csv")
    part = json.loads(softhead_command("evaluate", "mixed.safetensors", "part.csv", "--json")[0])
    assert (part["rows_tested"], part["scored"]) == (100, "all")


def test_text_that_looks_like_numbers_stays_text(table):
    parquet.write_table(table, "mixed.parquet")  # knows that "007" is text, which CSV does not
    softhead_command("train", "mixed.parquet", "--target", "label", "--quiet")
    outputs = []
    for source in ("mixed.parquet", "mixed.csv"):
        softhead_command("predict", "mixed.safetensors", source, "-o", "out.csv")
        outputs.append(csv.read_csv("out.csv"))
    assert outputs[0].equals(outputs[1])


@pytest.mark.parametrize(
    ("labels", "kind"), [(["a", "b"], pa.string()), ([3, -1], pa.int64()), ([True, False], pa.bool_())]
)
def test_labels_keep_their_types(labels, kind):
    x = np.random.default_rng(0).normal(size=60)
    data = pa.table({"x": x, "y": pa.array([labels[int(v > 0)] for v in x], kind)})
    csv.write_csv(data, "data.csv")
    parquet.write_table(data, "data.parquet")
    for source in ("data.csv", "data.parquet"):
        softhead_command("train", source, "--target", "y", "--quiet")
        softhead_command("predict", "data.safetensors", source, "-o", "out.parquet")
        predicted = parquet.read_table("out.parquet")["label"]
        assert predicted.type == kind
        assert np.mean([a == b for a, b in zip(predicted.to_pylist(), data["y"].to_pylist(), strict=True)]) > 0.9


def test_npz_arrays_are_named():
    digits = load_digits()
    np.savez("scans.npz", images=digits.images.astype(np.uint8), kind=digits.target, other=digits.target)
    _, err = softhead_command("train", "scans.npz", "--target", "kind", code=1)
    assert "scans.npz: 2 arrays are as long as the target 'kind'" in err
    softhead_command("train", "scans.npz", "--features", "images", "--target", "kind", "--quiet")
    scores = json.loads(softhead_command("evaluate", "scans.safetensors", "scans.npz", "--json")[0])
    assert scores["accuracy"] > 0.95
    assert "held out" in scores["scored"]


def test_all_rows_can_be_trained_on():
    trained = json.loads(softhead_command("train", "wine", "--test-size", "0", "--json")[0])
    assert trained["rows"] == 178
    assert "accuracy" not in trained
    scores = json.loads(softhead_command("evaluate", "wine.safetensors", "wine", "--json")[0])
    assert (scores["rows_tested"], scores["scored"]) == (178, "all")


def test_seeds_choose_the_rows_and_nothing_else():
    runs = [json.loads(softhead_command("train", "wine", "--seed", seed, "--json")[0]) for seed in (0, 0, 1)]
    for run in runs:
        del run["seconds"]
    assert runs[0] == runs[1] != runs[2]


def test_a_model_that_the_library_saved_is_applied_too():
    X, y = load_wine(return_X_y=True)
    softhead.save(softhead.SoftmaxClassifier(max_iter=5000).fit(X, y), "plain.safetensors")
    np.savez("wine.npz", X=X, y=y)
    _, err = softhead_command("evaluate", "plain.safetensors", "wine.npz", code=2)
    assert "--target" in err
    out, _ = softhead_command("evaluate", "plain.safetensors", "wine.npz", "--target", "y", "--json")
    assert json.loads(out)["accuracy"] > 0.95
    assert len(softhead_command("predict", "plain.safetensors", "wine.npz")[0].splitlines()) == 179


def test_the_held_out_part_is_stratified_and_leaves_no_class_untrained():
    y = np.repeat(["common", "rare", "single", "pair"], [1000, 50, 1, 2])
    held_out = training.hold_out(y, test_size=0.2, seed=3)
    counts = {label: held_out[y == label].sum() for label in np.unique(y)}
    assert counts["common"] in (199, 200, 201)
    assert counts["rare"] in (9, 10, 11)
    assert counts["single"] == 0
    assert counts["pair"] < 2
    assert not training.hold_out(y, test_size=0.0, seed=3).any()
    assert (training.hold_out(y, test_size=0.2, seed=4) != held_out).any()


def test_convergence_warnings_are_lines():
    _, err = softhead_command("train", "digits", "--max-iter", "2")
    assert err.startswith("softhead: warning: SoftmaxClassifier stopped at max_iter=2")
    assert err.count("\n") == 1
    assert softhead_command("train", "digits", "--max-iter", "2", "--quiet") == ("", "")


# What can be wrong: (the file's name, its contents, what the message must name)
BROKEN = [
    ("missing.csv", None, ["missing.csv", "no such file"]),
    ("empty.csv", b"", ["empty.csv", "empty"]),
    ("header.csv", b"x,label\n", ["header.csv", "no rows"]),
    ("ragged.csv", b"x,label\n1,a\n2\n3,b\n", ["ragged.csv", "row 2 (line 3)"]),
    ("cut.csv", b"x,z,label\n1,2,a\n2,3,b\n3,4", ["cut.csv", "row 3 (line 4)"]),
    ("binary.csv", bytes(range(256)) * 20, ["binary.csv"]),
    ("twice.csv", b"x,x,label\n1,2,a\n2,3,b\n", ["twice.csv", "more than one column", "'x'"]),
    ("target.csv", b"x,lable\n1,a\n2,b\n", ["target.csv", "no column 'label'", "did you mean 'lable'"]),
    ("one.csv", b"x,label\n1,a\n2,a\n", ["one.csv", "2 classes", "'a'"]),
    ("gaps.csv", b"x,label\n1,a\n2,\n3,b\n", ["gaps.csv", "label", "missing", "row 2"]),
    ("infinite.csv", b"x,label\n1,a\ninf,b\n3,b\n", ["infinite.csv", "'x'", "row 2"]),
    ("real.csv", b"x,label\n1,0.5\n2,0.7\n", ["real.csv", "label", "0.5", "row 1"]),
    ("table.xlsx", b"PK", ["table.xlsx", ".xlsx", ".csv"]),
    ("cut.csv.gz", gzip.compress(b"x,label\n" + b"1,a\n2,b\n" * 2000)[:40], ["cut.csv.gz"]),
    ("cut.parquet", b"PAR1 and no more", ["cut.parquet"]),
]


@pytest.mark.parametrize(("name", "contents", "parts"), BROKEN, ids=[case[0] for case in BROKEN])
def test_broken_data_is_one_clear_line_and_no_file(name, contents, parts, tmp_path):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    before = set(os.listdir())
    _, err = softhead_command("train", name, "--target", "label", code=1)
    for part in parts:
        assert part in err
    assert set(os.listdir()) == before


def test_wrong_columns_and_labels_are_named_when_a_model_is_applied(table):
    softhead_command("train", "mixed.csv", "--target", "label", "--quiet")
    csv.write_csv(table.drop_columns(["day"]), "less.csv")
    _, err = softhead_command("predict", "mixed.safetensors", "less.csv", "-o", "out.csv", code=1)
    assert "less.csv" in err
    assert "day" in err
    words = table.set_column(1, "size", pa.array(["1.5"] * 299 + ["large"]))
    csv.write_csv(words, "words.csv")
    _, err = softhead_command("predict", "mixed.safetensors", "words.csv", "-o", "out.csv", code=1)
    for part in ("words.csv", "size", "row 300", "large"):
        assert part in err
    csv.write_csv(table.set_column(4, "label", pa.array(["big"] * 299 + ["huge"])), "labels.csv")
    _, err = softhead_command("evaluate", "mixed.safetensors", "labels.csv", code=1)
    for part in ("labels.csv", "label", "row 300", "'huge'", "2 classes"):
        assert part in err
    assert not os.path.exists("out.csv")


def test_damaged_models_are_refused(table, tmp_path):
    softhead_command("train", "mixed.csv", "--target", "label", "--quiet")
    data = bytearray((tmp_path / "mixed.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    for arguments in (("info", "damaged.safetensors"), ("predict", "damaged.safetensors", "mixed.csv")):
        _, err = softhead_command(*arguments, code=1)
        assert "damaged.safetensors" in err
    _, err = softhead_command("info", "nothing.safetensors", code=1)
    assert "nothing.safetensors: No such file" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("train", "data.csv"), "--target"),
        (("train", "digits", "--C", "-1"), "--C"),
        (("train", "digits", "--test-size", "1"), "--test-size"),
        (("predict", "m", "digits", "-o", "out.xlsx"), "out.xlsx"),
        (("train",), "DATA"),
        (("fit",), "fit"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, part):
    csv.write_csv(pa.table({"x": [1, 2], "y": ["a", "b"]}), "data.csv")
    _, err = softhead_command(*arguments, code=2)
    assert part in err


def test_a_place_that_cannot_be_written_is_told_before_the_training(monkeypatch):
    monkeypatch.setattr(training, "train", None)  # would raise a TypeError
    _, err = softhead_command("train", "digits", "--out", "no/such/folder/m.safetensors", code=1)
    assert "its folder does not exist" in err
    os.mkdir("folder")
    _, err = softhead_command("train", "digits", "--out", "folder", code=1)
    assert "is a folder" in err


def test_an_old_output_survives_a_failure(table, monkeypatch):
    with open("out.csv", "w") as file:
        file.write("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_columns([{"label": np.array(["a"], object)}], "out.csv")
    with open("out.csv") as file:
        assert file.read() == "old"
    assert sorted(os.listdir()) == ["mixed.csv", "out.csv"]


def test_the_record_says_how_the_model_was_trained():
    softhead_command("train", "digits", "--seed", "7", "--test-size", "0.25", "--quiet")
    model, record = read_model("digits.safetensors")
    data = load_data("digits", target=None)
    held_out = np.unpackbits(record["held_out"], count=1797).astype(bool)
    np.testing.assert_array_equal(held_out, training.hold_out(data.target, test_size=0.25, seed=7))
    assert (record["seed"], record["test_size"], record["target"], record["rows"]) == (7, 0.25, "target", 1797)
    assert record["fingerprint"] == training.fingerprint(model[0].transform(data.features), data.target)


def run_as_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "softhead", *arguments], capture_output=True, text=True, check=False, **options
    )


def test_version_and_help_as_a_process():
    result = run_as_process("--version")
    assert (result.returncode, result.stdout) == (0, f"softhead {softhead.__version__}\n")
    assert run_as_process("--help").returncode == 0


def test_without_the_extra_the_message_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from softhead.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'softhead[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_in_a_fit_leaves_no_file_and_exits_130_within_a_second(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30_000, 300), dtype=np.float32)
    np.savez("large.npz", X=X, y=rng.integers(0, 1000, len(X)))  # 4e12 operations to converge: minutes on 2 cores
    command = [sys.executable, "-m", "softhead", "train", "large.npz", "--target", "y", "--tol", "1e-12", "--C", "1e6"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        time.sleep(4.0)
        assert process.poll() is None, "the fit must be under way"
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        waited = time.monotonic() - sent
    assert process.returncode == 130
    assert err == "softhead: interrupted\n"
    assert os.listdir(tmp_path) == ["large.npz"]
    assert waited < 5.0  # a loose guard against a hang; the figure itself is well below a second


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no broken pipes")
def test_a_reader_that_goes_away_is_no_error_message():
    softhead_command("train", "digits", "--quiet")
    command = f"{sys.executable} -m softhead predict digits.safetensors digits --probabilities | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stdout.startswith('"label","probability"')
    assert result.stderr == ""


def test_bad_values_are_counted_in_the_whole_table():
    values = np.arange(100.0)
    for bad in (3, 21, 57):
        x = values.copy()
        x[bad] = np.inf
        csv.write_csv(pa.table({"x": x, "y": ["a", "b"] * 50}), "inf.csv")
        _, err = softhead_command("train", "inf.csv", "--target", "y", code=1)
        assert f"inf.csv: column 'x', row {bad + 1}" in err


def test_columns_of_no_use_are_one_clear_line():
    for column in (pa.array([[1], [2]] * 20), pa.array([b"1", b"2"] * 20), pa.array([{"a": 1}] * 40)):
        parquet.write_table(pa.table({"x": range(40), "odd": column, "y": ["a", "b"] * 20}), "odd.parquet")
        _, err = softhead_command("train", "odd.parquet", "--target", "y", code=1)
        assert "odd.parquet: column 'odd'" in err


def test_what_is_read_is_never_overwritten(table):
    softhead_command("train", "mixed.csv", "--target", "label", "--quiet")
    os.symlink("mixed.csv", "link.csv")
    for arguments in (
        ("train", "mixed.csv", "--target", "label", "--out", "mixed.csv"),
        ("predict", "mixed.safetensors", "mixed.csv", "-o", "mixed.csv"),
        ("predict", "mixed.safetensors", "mixed.csv", "-o", "link.csv"),
    ):
        _, err = softhead_command(*arguments, code=1)
        assert "is the input" in err
    assert csv.read_csv("mixed.csv").num_rows == 300


def test_models_with_a_record_of_another_program_are_applied():
    X, y = load_wine(return_X_y=True)
    model = softhead.SoftmaxClassifier(max_iter=5000).fit(X, y)
    np.savez("wine.npz", X=X, y=y)
    mask = np.zeros(1, np.uint8)
    ours = {
        "data": "d",
        "target": "y",
        "features": "X",
        "test_size": 0.2,
        "seed": 0,
        "held_out": mask,
        "fingerprint": "",
    }
    for record in ({"x": 1}, [1], "text", 5, {**ours, "rows": 10**30}, {**ours, "rows": 9}, {**ours, "rows": 0}):
        write_model(model, "own.safetensors", record)
        assert "trained on" not in softhead_command("info", "own.safetensors")[0]
        assert len(softhead_command("predict", "own.safetensors", "wine.npz", "--features", "X")[0].splitlines()) == 179
        softhead_command("evaluate", "own.safetensors", "wine.npz", code=2)
    write_model(model, "own.safetensors", {**ours, "rows": 8})
    assert "trained on" in softhead_command("info", "own.safetensors")[0]


def test_a_model_without_an_encoder_finds_its_columns_by_name():
    X, y = load_wine(return_X_y=True, as_frame=True)
    softhead.save(softhead.SoftmaxClassifier(max_iter=5000).fit(X, y), "bare.safetensors")
    frame = X[X.columns[::-1]].assign(note="text", y=y)
    frame.to_csv("wine.csv", index=False)
    softhead_command("predict", "bare.safetensors", "wine.csv", "-o", "out.csv")
    assert np.mean(csv.read_csv("out.csv")["label"].to_numpy() == y) > 0.95
    frame.drop(columns=["hue"]).to_csv("less.csv", index=False)
    assert "less.csv: no column 'hue'" in softhead_command("predict", "bare.safetensors", "less.csv", code=1)[1]


def test_too_few_rows_to_hold_any_out_are_said_to_be():
    csv.write_csv(pa.table({"x": [1, 2], "y": ["a", "b"]}), "two.csv")
    assert json.loads(softhead_command("train", "two.csv", "--target", "y", "--json")[0])["rows_tested"] == 0


@pytest.mark.parametrize(("option", "value"), [("--C", "0"), ("--C", "nan"), ("--tol", "inf"), ("--tol", "-1")])
def test_values_out_of_range_are_named_briefly(option, value):
    _, err = softhead_command("train", "digits", option, value, code=2)
    assert option in err
    assert value in err
    assert len(err) < 900


def test_a_name_that_is_nearly_bundled_is_suggested():
    assert "did you mean 'digits'" in softhead_command("train", "digit", code=1)[1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_a_full_standard_output_is_one_line():
    softhead_command("train", "iris", "--quiet")
    for arguments in ("--version", "info iris.safetensors", "predict iris.safetensors iris"):
        command = f"{sys.executable} -m softhead {arguments} > /dev/full"
        result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert "No space left" in result.stderr
        assert "Traceback" not in result.stderr


def test_labels_that_the_terminal_cannot_show_are_escaped():
    csv.write_csv(pa.table({"x": range(40), "y": ["\u4e2d", "\u6587"] * 20}), "labels.csv")
    softhead_command("train", "labels.csv", "--target", "y", "--quiet", "--max-iter", "50")
    result = run_as_process("info", "labels.safetensors", env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert result.returncode == 0
    assert "\\u4e2d, \\u6587" in result.stdout
