"""The README: its Python runs, its commands exist, and the Chinese one says the same."""

import re
import shlex
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


def blocks(text, language):
    return [body for kind, body in FENCE.findall(text) if kind == language]


def test_its_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    run = 0
    for block in blocks(ENGLISH.read_text(encoding="utf-8"), "python"):
        imported = {name.partition(".")[0] for name in re.findall(r"^(?:import|from) ([\w.]+)", block, re.MULTILINE)}
        if all(find_spec(name) for name in imported):
            exec(compile(block, "README.md", "exec"), names)
            run += 1
    assert run >= 4
    assert names["softhead"].load("model.safetensors").classes_.tolist() == ["a", "b"]


def test_its_commands_and_their_options_exist():
    typer = pytest.importorskip("typer")
    from softhead.app.cli import app

    commands = typer.main.get_command(app).commands
    used = Counter()
    for block in blocks(ENGLISH.read_text(encoding="utf-8"), "sh"):
        for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
            words = shlex.split(line, comments=True)
            if words and words[0].rpartition("/")[2] == "softhead":
                options = {option for parameter in commands[words[1]].params for option in parameter.opts}
                unknown = {word for word in words[2:] if word.startswith("-")} - options
                assert not unknown, f"softhead {words[1]} has no {unknown}"
                used[words[1]] += 1
    assert {"train", "predict", "evaluate"} <= set(used)


def sections(path):
    """The parts of a README from heading to heading: the level, and what must be the same in every language."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    parts = re.split(r"^(#+) (.*)$", text, flags=re.MULTILINE)[1:]
    for level, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        targets = re.findall(r"\]\(([^)]*)\)", body)
        prose = re.sub(r"\]\([^)]*\)", "]", body)
        same = Counter(f"link to {target}" for target in targets if target not in (ENGLISH.name, CHINESE.name))
        same += Counter(f"`{span}`" for span in re.findall(r"`([^`]+)`", prose))
        rows = [line for line in prose.splitlines() if line.startswith("|")]
        same += Counter("table row " + " ".join(NUMBER.findall(row)) for row in rows)
        outside = "\n".join(line for line in prose.splitlines() if not line.startswith("|"))
        same += Counter(f"figure {number}" for number in NUMBER.findall(re.sub(r"`[^`]+`", "", outside)))
        yield level, title, same


def test_the_chinese_readme_has_the_same_headings_figures_commands_and_links():
    english, chinese = list(sections(ENGLISH)), list(sections(CHINESE))
    assert [level for level, *_ in english] == [level for level, *_ in chinese], "headings differ in number or level"
    wrong = []
    for (_, title, expected), (_, translated, found) in zip(english, chinese, strict=True):
        for name, difference in (("lacks", expected - found), ("has beyond it", found - expected)):
            if difference:
                wrong.append(f"{translated} ({title}) {name}: {', '.join(difference.elements())}")
    assert not wrong, "README.zh-CN.md against README.md:\n" + "\n".join(wrong)


def test_the_chinese_readme_has_the_same_code_byte_for_byte():
    english, chinese = (FENCE.findall(path.read_text(encoding="utf-8")) for path in (ENGLISH, CHINESE))
    for number, ((_, one), (_, other)) in enumerate(zip(english, chinese, strict=False), 1):
        lines = sorted(set(one.splitlines()) ^ set(other.splitlines()))
        assert one == other, f"code block {number} of README.zh-CN.md is not that of README.md; see {lines}"
    assert len(english) == len(chinese)
