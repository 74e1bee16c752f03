"""The house: no dead link or anchor, the picture is the house, names mean one thing each, no room is cramped."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.tried.pretexts import TRIED
from diffaug.nnunet.families import NETWORKS
from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found.append(text if text not in found else f"{text}-{found.count(text)}")
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading, but {sorted(anchors(target))}"


def test_the_picture_of_the_house_names_every_room_and_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[text.index("    diffaug/\n") : text.index("A room knows")]
    rooms = re.split(r"^      (?=[a-z_]+/ )", tree, flags=re.MULTILINE)
    named = {room.partition("/")[0]: room for room in rooms[1:]}
    here = {path.name: path for path in (ROOT / "diffaug").iterdir() if (path / "__init__.py").is_file()}
    assert named.keys() == here.keys()
    for room, folder in here.items():
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        missing = {module for module in modules if not re.search(rf"\b{module}\b", named[room])}
        assert not missing, f"{room}/ has {missing}"
    for module in (path.name for path in (ROOT / "diffaug").glob("*.py") if not path.name.startswith("__")):
        assert module in rooms[0] + rooms[-1]


def test_the_readme_can_be_read_in_four_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("kind", [VERBS, NETWORKS, PRETEXTS], ids=["verbs", "networks", "pretexts"])
def test_the_reference_names_all_that_may_be_given(kind):
    text = (ROOT / "docs" / "reference.md").read_text()
    own = [name for name in kind if name not in TRIED]
    assert [name for name in own if f"`{name}`" not in text] == []


ROOT = Path(__file__).parents[1]
FILES = sorted(file for room in ("diffaug", "nnunet_plugin") for file in (ROOT / room).rglob("*.py"))


def constants(tree):
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Name) and each.id.isupper() and not each.id.startswith("_"):
                    yield each.id


def test_no_two_constants_have_one_name():
    found = defaultdict(list)
    for file in FILES:
        for name in constants(ast.parse(file.read_text())):
            found[name].append(file.name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_and_no_function_is_beyond_its_size(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
