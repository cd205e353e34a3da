"""The documentation: its examples run, its names exist, its site builds without a network."""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fastsac.cli import main
from fastsac.envs import opengl

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = {
    f"{page.stem} {number}": code
    for page in sorted(DOCS.glob("*.md"))
    if page.stem != "clients"  # tests/fastsac/adapters has the libraries
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[name], f"{name}.py", "exec"), {})


@pytest.mark.slow
def test_the_notebook_trains_plots_and_films(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What shows the pictures is the reader's; matplotlib asks it for its version and its shell.
    shown = types.SimpleNamespace(Image=Path, version_info=(9, 0), get_ipython=lambda: None)
    for name in ("IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, shown)
    names: dict = {}
    for cell in json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["result"].evaluation.mean > 200 and names["total"] > 200
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert (tmp_path / "film.gif").exists() or opengl.load()


def test_there_are_examples():
    assert {name.split()[0] for name in EXAMPLES} >= {"index", "embedding", "custom_tasks"}


NAMES = set(re.findall(r"`(fastsac(?:\.\w+)+)`", (DOCS / "algorithm.md").read_text()))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_the_algorithm_names_is_there(name):
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return
    pytest.fail(f"no module of {name}")


@pytest.fixture(scope="module")
def known_flags():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(["train", "cartpole_swingup", "--help"])
    # Of other commands, which the pages name beside training's.
    others = {"--gpu", "--episodes", "--resume", "--help"}
    return others | set(re.findall(r"--[a-z][a-z-]+", printed.getvalue()))


@pytest.mark.parametrize("page", ["index", "algorithm", "embedding", "engines", "gpu", "faq"])
def test_flags_that_a_page_names_are_there(page, known_flags):
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (DOCS / f"{page}.md").read_text()))
    assert not flags - known_flags


def test_the_site_builds_and_shows_the_public_names(tmp_path):
    pytest.importorskip("mkdocs")
    if not (DOCS.parent / ".types").exists():  # others may be reading it
        subprocess.run(["make", "--silent", ".types"], cwd=DOCS.parent, check=True, timeout=60)
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr  # a link or an anchor that leads nowhere is an error
    page = (tmp_path / "api" / "index.html").read_text()
    for name in ("TrainConfig", "ReplayBuffer", "load_policy", "VectorEnv", "target_entropy"):
        assert name in page
    assert not re.findall(r'(?:src|href)="https?://fonts', page)
