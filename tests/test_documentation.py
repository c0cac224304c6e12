"""The documentation, as far as it can be read without building it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GALLERY = sorted((DOCS / "gallery").glob("plot_*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    """As the pages stand in the repository: the built documentation, whose links Sphinx checks, rewrites them."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target.startswith("auto_gallery/") or target == "api.rst":
            continue  # made by the build
        other = page if target == "" else (page.parent / target).resolve()
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_page_of_the_documentation_is_in_its_table_of_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {
        line
        for block in re.findall(r"```\{toctree\}(.*?)```", contents, re.DOTALL)
        for line in re.findall(r"[\w-]+(?=>?$)", block, re.MULTILINE)
    }
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_pages_of_the_gallery_state_and_assert(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, underline = ast.get_docstring(tree).splitlines()[:2]
    assert set(underline) == {"="}
    assert len(underline) == len(title)
    asserted = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    asserted += sum(isinstance(node, ast.Attribute) and node.attr.startswith("assert_") for node in ast.walk(tree))
    assert asserted >= 3
    assert "plt." in path.read_text(encoding="utf-8")
    assert f"](gallery/{path.name})" in (DOCS / "sources.md").read_text(encoding="utf-8")


def test_the_scripts_that_pages_name_exist():
    for page in PAGES:
        for script in re.findall(r"benchmarks/\w+\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / script).exists(), f"{page.name} names {script}"
