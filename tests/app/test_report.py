"""``softhead report``: one page, complete, safe and readable, with the figures of ``softhead evaluate``."""

import base64
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from app.test_cli import mixed_table, softhead_command
from pyarrow import csv

import softhead
from softhead.app.datasets import load_data
from softhead.app.evaluation import Figures
from softhead.app.report import describe, figures, rasters

VOID = {"meta", "link", "img", "br", "wbr", "path"}
MINUS = "\N{MINUS SIGN}"
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page as a tree of what a test asks for; it refuses tags that do not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text, self.exact, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "data":
            self.exact.append(dict(attributes)["value"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def report_of(model, data, *options):
    said = json.loads(softhead_command("report", model, data, "-o", "page.html", "--json", *options)[0])
    content = Path("page.html").read_bytes()
    assert said == {"report": "page.html", "bytes": len(content)}
    text = content.decode()
    page = Page(text)
    check_that_it_stands_alone(text, page)
    check_that_anyone_can_read_it(page)
    scores = json.loads(softhead_command("evaluate", model, data, "--json", *options)[0])
    check_that_its_figures_are_those_of_evaluate(page, scores)
    return page, scores


def check_that_its_figures_are_those_of_evaluate(page, scores):
    """Every figure, both ends of its interval and what it was before calibration, to the last digit."""
    before = scores["uncalibrated"]

    def shown(name):
        low, high = scores["intervals"][name]
        return [scores[name], *([low, high] if low < high else [])]

    table = [number for name in Figures._fields for number in shown(name) + ([before[name]] if before else [])]
    tiles = [number for name in ("accuracy", "log_loss", "calibration_error") for number in shown(name)]
    exact = [float(value) for value in page.exact if value != "null"]
    assert exact[: len(tiles)] == tiles
    assert exact[-len(table) :] == table
    assert len(exact) - len(tiles) - len(table) == 1, "the relative gap"


def check_that_it_stands_alone(text, page):
    assert len(text) < 3_000_000
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    (policy,) = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")


def check_that_anyone_can_read_it(page):
    assert page.all("html") == [{"lang": "en"}]
    assert "viewport" in [meta.get("name") for meta in page.all("meta")]
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("nav")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.all("svg"))
    assert len(page.all("svg")) == len(page.all("desc")) == len(page.all("title")) - 1
    assert all("scope" in cell for cell in page.all("th"))


def test_of_images_it_shows_mistakes_and_coefficients_as_pictures():
    softhead_command("train", "digits", "--sweep", "--Cs", "0.01,1", "--cv", 2)
    page, scores = report_of("digits.safetensors", "digits")
    wrong = round((1 - scores["accuracy"]) * scores["rows_tested"])
    pictures = [image["alt"] for image in page.all("img")]
    assert len([alt for alt in pictures if "Coefficients" in alt]) == 10
    assert len([alt for alt in pictures if "8 by 8 pixels" in alt]) == min(wrong, 12)
    assert f"{wrong} rows of {scores['rows_tested']} are taken for another class." in page.text
    assert "The choice of C" in page.text
    assert "before calibration" not in page.text
    first = Path("page.html").read_bytes()
    softhead_command("report", "digits.safetensors", "digits", "-q")
    assert Path("digits.html").read_bytes() == first, "the same model and data give the same page"


def test_a_model_without_mistakes_has_none_to_show(tmp_path):
    np.savez(tmp_path / "easy.npz", x=np.repeat([[-3.0], [3.0]], 30, axis=0), y=np.repeat([False, True], 30))
    softhead_command("train", "easy.npz", "--target", "y")
    page, scores = report_of("easy.safetensors", "easy.npz")
    assert scores["accuracy"] == 1.0
    text = "".join(page.text)
    assert "0 rows of 12 are taken for another class." in text
    assert "There is none." in text
    assert "\N{MINUS SIGN}" not in "".join(row[0] for row in page.rows if row)


@pytest.mark.parametrize(("how", "said"), [("cv", "1,438 rows of the training, out of 5 folds"), ("holdout", "apart")])
def test_a_calibrated_model_is_shown_before_and_after(how, said):
    softhead_command("train", "digits", "--C", 1e-3, "--calibrate", how, "--out", "d.safetensors")
    page, scores = report_of("d.safetensors", "digits")
    assert scores["uncalibrated"]["log_loss"] != scores["log_loss"]
    titles = [chart["aria-labelledby"] for chart in page.all("svg")]
    assert len([title for title in titles if "reliability" in title]) == 2
    assert "before calibration" in page.text
    text = "".join(page.text)
    for error in (scores["calibration_error"], scores["uncalibrated"]["calibration_error"]):
        assert f"Calibration error {describe.percent(error)}." in text
    assert f"Logits are divided by the temperature {describe.figure(scores['temperature'])}. It was fitted to " in text
    assert said in text


def test_the_confusions_are_those_of_the_predictions():
    softhead_command("train", "wine", "--out", "all.safetensors", "--test-size", 0, "--C", 1e-6)
    page, scores = report_of("all.safetensors", "wine")
    softhead_command("predict", "all.safetensors", "wine", "-o", "predicted.csv")
    truth = load_data("wine", target=None).target
    predicted = np.array(csv.read_csv("predicted.csv")["label"].to_pylist(), dtype=object)
    confused = [f"{t}>{p}" for t, p in zip(truth, predicted, strict=True) if t != p]
    pairs, counts = np.unique(confused, return_counts=True)
    shown = {row[0] + ">" + row[1]: int(row[2]) for row in page.rows if len(row) == 4 and row[2].isdecimal()}
    assert {pair: shown[pair] for pair in pairs} == dict(zip(pairs, counts.tolist(), strict=True))
    assert counts.sum() == round((1 - scores["accuracy"]) * scores["rows_tested"])
    assert "all rows that were given" in "".join(page.text)


def test_every_text_from_outside_is_escaped(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", HOSTILE, "a&b"], 200)
    flipped = rng.random(200) < 0.2
    table = pa.table(
        {
            HOSTILE: colour,
            '" onload="alert(2)': rng.normal(size=200),
            "label": np.where((colour == "red") ^ flipped, HOSTILE, "it's <b>fine</b>"),
        }
    )
    name = "<img src=x onerror=alert(3)>.csv"
    csv.write_csv(table, tmp_path / name)
    softhead_command("train", name, "--target", "label", "--out", "<i>.safetensors")
    page, _ = report_of("<i>.safetensors", name)
    text = "".join(page.text)
    for shown in (HOSTILE, "it's <b>fine</b>", '" onload="alert(2)', "<img src=x onerror=alert(3)>", "<i>.safetensors"):
        assert shown in text
    assert not page.all("b")
    assert not page.all("i")
    assert not page.all("img")


def test_nothing_in_the_template_is_exempt_from_escaping():
    template = files("softhead.app.report").joinpath("templates", "report.html").read_text()
    assert not re.search(r"\|\s*safe|autoescape|<script", template)


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def contrast(one, other):
    """WCAG 2.2, contrast ratio."""
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_have_the_contrast_that_accessibility_asks_for(theme):
    style = files("softhead.app.report").joinpath("templates", "report.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]))
    for ground in ("page", "card"):
        for text in ("text", "muted", "for", "against", "good"):
            assert contrast(colours[text], colours[ground]) >= 4.5
    strongest = float(re.search(r"\.shade-5 \{ fill-opacity: (\S+);", style)[1])
    for fill in ("for", "against"):  # counts are written over the shades of a confusion matrix
        mixed = [
            round(strongest * int(colours[fill][i : i + 2], 16) + (1 - strongest) * int(colours["page"][i : i + 2], 16))
            for i in (1, 3, 5)
        ]
        assert contrast(colours["text"], "#" + "".join(f"{part:02x}" for part in mixed)) >= 4.5


def test_a_model_without_encoder_or_record_is_reported_by_the_names_it_has(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 5))
    y = (x[:, 0] + rng.normal(size=60) > 0).astype(int)
    np.savez(tmp_path / "bare.npz", x=x, y=y)
    softhead.save(softhead.SoftmaxClassifier().fit(x, y), "bare.safetensors")
    page, scores = report_of("bare.safetensors", "bare.npz", "--target", "y")
    assert scores["rows_tested"] == 60
    names = [row[0] for row in page.rows if row and re.fullmatch(r"x\d", row[0])]
    assert sorted(set(names)) == [f"x{i}" for i in range(5)]
    text = "".join(page.text)
    assert "all rows that were given" in text
    assert "Its 5 values" in text
    assert "trained on" not in text


def test_texts_are_quoted_with_the_words_that_led_astray(tmp_path):
    rng = np.random.default_rng(1)
    topics = {"sea": ["ship", "wave", "salt"], "sky": ["cloud", "wing", "blue"]}
    labels = rng.choice(["sea", "sky"], 120)
    lines = []
    for i, label in enumerate(labels):
        topic = label if i % 10 else ("sea" if label == "sky" else "sky")
        lines.append({"body": f"line {i}: " + " ".join(rng.choice(topics[topic], 4)), "kind": label})
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    softhead_command("train", "texts.jsonl", "--target", "kind", "--text", "body", "--out", "t.safetensors")
    page, _ = report_of("t.safetensors", "texts.jsonl")
    text = "".join(page.text)
    assert re.search(r"line \d+0: ", text)
    assert "Spoke for it: " in text
    assert ["word", "coefficient", ""] in page.rows
    strongest = next(row[0] for row in page.rows if row[0] in (*topics["sea"], *topics["sky"]))
    assert strongest


def test_tables_are_described_and_mistakes_show_their_values(tmp_path):
    table = mixed_table(400)
    csv.write_csv(table, tmp_path / "mixed.csv")
    softhead_command("train", "mixed.csv", "--target", "label")
    page, _ = report_of("mixed.safetensors", "mixed.csv")
    kinds = {row[0]: row[1:] for row in page.rows if len(row) == 4}
    assert kinds["colour"][0] == "text"
    assert kinds["size"][:2] == ["number", describe.percent(24 / 400)]
    assert kinds["day"][0] == "time"
    assert "colour=red" in "".join(page.text)
    assert "Its 4 values" in page.text


def test_150_classes_stay_readable(tmp_path):
    rng = np.random.default_rng(2)
    y = np.arange(1500) % 150
    x = rng.normal(size=(150, 12))[y] + rng.normal(size=(1500, 12))
    np.savez(tmp_path / "many.npz", x=x.astype(np.float32), y=np.array([f"class_{c:03d}" for c in y]))
    softhead_command("train", "many.npz", "--target", "y", "--C", "0.1", "--tol", "0.01")
    page, _ = report_of("many.safetensors", "many.npz")
    recalls = [float(row[2].rstrip("%")) for row in page.rows if len(row) == 4 and re.fullmatch(r"class_\d+", row[0])]
    recalls = recalls[-150:]
    assert recalls == sorted(recalls), "the least recognised first"
    assert len([attributes for attributes in page.all("path") if "shade" in attributes["class"]]) <= 10
    assert len(page.tags) < 20_000


def test_what_cannot_be_reported_is_refused_as_by_the_other_commands(tmp_path):
    csv.write_csv(mixed_table(), tmp_path / "mixed.csv")
    softhead_command("train", "mixed.csv", "--target", "label", "--out", "m.safetensors")
    csv.write_csv(
        mixed_table().append_column("x", pa.array(["y"] * 300)).drop_columns(["label"]), tmp_path / "none.csv"
    )
    assert "no column 'label'" in softhead_command("report", "m.safetensors", "none.csv", code=1)[1]
    csv.write_csv(mixed_table().drop_columns(["size"]), tmp_path / "less.csv")
    assert "size" in softhead_command("report", "m.safetensors", "less.csv", code=1)[1]
    unseen = mixed_table().drop_columns(["label"]).append_column("label", pa.array(["huge"] * 300))
    csv.write_csv(unseen, tmp_path / "unseen.csv")
    evaluated = softhead_command("evaluate", "m.safetensors", "unseen.csv", code=1)[1]
    assert softhead_command("report", "m.safetensors", "unseen.csv", code=1)[1] == evaluated
    assert "is not an .html file" in softhead_command("report", "m.safetensors", "mixed.csv", "-o", "a.txt", code=2)[1]
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in softhead_command("report", "m.safetensors", "mixed.csv", "-o", "folder.html", code=1)[1]
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".htm", ".tmp") or path.name == "mixed.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.1235"),
        (-2.5, "\N{MINUS SIGN}2.5"),
        (123456.7, "123,457"),
        (1e-9, "1.00e\N{MINUS SIGN}09"),
    ],
)
def test_numbers_are_written_for_readers(value, text):
    assert describe.figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "missing"),
        (float("nan"), "missing"),
        (20130101.0, "20130101"),
        (0.1 + 0.2, "0.3"),
        ("a\nb\u202ec\udc80", "a b c"),
        ("x" * 100, "x" * 79 + "…"),
        ("", "(empty)"),
    ],
)
def test_values_are_short_and_printable(value, text):
    assert describe.short(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.5, "50.0%"),
        (0.0067, "0.67%"),
        (3e-5, "0.003%"),
        (0.9999, "99.99%"),
        (1e-7, "< 0.001%"),
        (1 - 1e-7, "> 99.999%"),
    ],
)
def test_percentages_claim_neither_0_nor_100_of_what_is_neither(share, text):
    assert describe.percent(share) == text


def test_a_matrix_of_thousands_of_confusions_is_drawn_by_its_largest():
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 1000, (400, 400))
    chart = figures.confusion("t", "d", counts, [f"class {i}" for i in range(400)])
    drawn = sum(mark.path.count("z") for mark in chart.marks if "shade" in mark.style)
    assert 20_000 <= drawn < 20_100
    assert sum(len(mark.path) for mark in chart.marks) < 600_000


def test_large_images_are_averaged_over_blocks():
    image = np.zeros((100, 60))
    image[:3, :3] = 9.0
    header, encoded = rasters.picture(image, 0.0, 9.0).split(",")
    assert header == "data:image/png;base64"
    data = base64.b64decode(encoded)
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (20, 34)
    pixels = np.frombuffer(zlib.decompress(data[data.index(b"IDAT") + 4 : -16]), np.uint8).reshape(34, 21)[:, 1:]
    assert pixels[0, 0] == 255
    assert pixels.sum() == 255


def test_coefficients_are_clear_where_they_are_zero():
    data = base64.b64decode(rasters.signed_picture(np.array([[1.0, 0.0], [-0.5, 2.0]]), 1.0).split(",")[1])
    lines = np.frombuffer(zlib.decompress(data[data.index(b"IDAT") + 4 : -16]), np.uint8).reshape(2, 9)
    rgba = lines[:, 1:].reshape(2, 2, 4)
    assert rgba[..., 3].tolist() == [[255, 0], [128, 255]]
    assert rgba[0, 0, 2] > rgba[0, 0, 0], "blue speaks for"
    assert rgba[1, 0, 0] > rgba[1, 0, 2], "orange against"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.0, 3.0), (-1.0, 1e6), (1e-9, 2e-9)])
def test_ticks_are_few_and_inside(low, high):
    chart = figures.curve("t", "d", [0.0, 1.0], [low, high], x_label="x", y_label="y")
    texts = [mark for mark in chart.marks if mark.style == "tick"]
    assert 4 <= len(texts) <= 16
    assert all(0 <= mark.x <= chart.width and 0 <= mark.y <= chart.height for mark in texts)
    numbers = [float(n) for mark in chart.marks if mark.path for n in re.findall(r"-?\d+\.?\d*", mark.path)]
    assert all(0 <= number <= chart.width for number in numbers)
