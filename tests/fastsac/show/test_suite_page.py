"""The wall of all tasks: what it says, how it sorts, and what a browser shows of it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fastsac.cli import main
from fastsac.runs import zoo
from tests.fastsac.run_samples import write_run
from tests.fastsac.show.test_report import (
    BEYOND,
    CHROMIUM,
    DESK,
    FILM,
    HOSTILE,
    PHONE,
    WIDTHS,
    browser,  # noqa: F401
    encode_mp4,
    foreign,
)

EVALUATIONS = [(5_000, 200.0, 310.0, 40.0), (10_000, 400.0, 850.25, 1.5)]


@pytest.fixture
def runs(tmp_path):
    """A folder with runs of five tasks, two of them of one."""
    top = tmp_path / "runs"
    write_run(top / "swingup-0", EVALUATIONS, result=(850.25, 1.5))
    better = write_run(top / "below/swingup-1", EVALUATIONS, seed=1, result=(860.5, 2.5))
    shutil.copy(FILM, better / "film.gif")
    (better / "machine.json").write_text(json.dumps({"cpu": "a desk", "gpu": None}))
    walker = write_run(top / "walker", EVALUATIONS[:1], task="walker_run")
    encode_mp4(walker / "film.mp4")
    write_run(top / "new", [], task="hopper_hop")
    hostile = write_run(top / "hostile", EVALUATIONS, task="fish_swim", result=(9.0, 1.0))
    (hostile / "machine.json").write_text(json.dumps({"gpu": HOSTILE}))
    write_run(top / ("long" * 50), EVALUATIONS[1:], task="swimmer_swimmer6")
    return top


def page(runs, output, *flags):
    assert main(["report", "--suite", str(runs), "-o", str(output), *flags]) == 0
    return output.read_text(encoding="utf-8")


def test_each_task_has_a_card_of_its_best_run(runs, tmp_path, capsys):
    text = page(runs, tmp_path / "a.html", "--no-video")
    assert capsys.readouterr().out.startswith(f"{tmp_path}/a.html: ")
    assert "<title>5 tasks: fastsac</title>" in text and text.count('class="task"') == 5
    assert "860.5 <small>± 2.5</small>" in text and "850.2 <small>" not in text
    assert "swingup-1, the best of 2" in text and "<dt>on</dt><dd>a desk</dd>" in text
    assert "7 min 49 s" in text and text.count("There is no evaluation yet.") == 1
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert text.count("data:image/svg") == 4 and "data:image/gif" not in text
    assert text.count("--by-return: 0") == text.count("--by-return: 4") == 1


def test_no_runs_and_damage_are_a_sentence(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv, words in (
        ([str(tmp_path / "empty")], f"there are no runs in {tmp_path}/empty"),
        ([str(tmp_path / "no")], f"there is no directory {tmp_path}/no"),
        ([str(runs), "-o", "a.pdf"], "-o must be a file that ends in .html"),
    ):
        assert main(["report", "--suite", "-o", str(tmp_path / "a.html"), *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    (runs / "walker/config.json").write_text("{")
    assert main(["report", "--suite", str(runs / "walker"), "-o", str(tmp_path / "a.html")]) == 2
    assert "config.json, line 1: " in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()
    text = page(runs, tmp_path / "a.html", "--no-video")
    assert text.count('class="task"') == 4 and text.count("Left out: ") == 1
    assert "walker/config.json, line 1: " in text


def test_policies_of_the_zoo_stand_where_a_task_has_no_run(runs, tmp_path, capsys):
    output = tmp_path / "a.html"
    text = page(runs, output, "zoo:walker_run", "zoo:dog_walk", "--no-video")
    about = zoo.read_index()["dog_walk"]
    assert "<title>6 tasks: fastsac</title>" in text and text.count("zoo:") == 1
    assert f"{about['return']:.1f} <small>" in text and f"{about['steps']:,}" in text
    assert text.count("data:image/svg") == 5
    assert main(["report", "--suite", "zoo:dog_wlak", "-o", str(output)]) == 2
    assert "there is no policy zoo:dog_wlak; did you mean zoo:dog_walk" in capsys.readouterr().err


@pytest.mark.slow
def test_a_policy_of_the_zoo_is_filmed(tmp_path):
    pytest.importorskip("av")
    text = page("zoo:walker_run", tmp_path / "a.html")
    if "There is no film" in text:
        pytest.skip("no OpenGL")
    assert text.count("data:video/mp4") == 1


def test_the_docs_page_is_of_the_zoo_as_it_is():
    text = (Path(__file__).parents[3] / "docs" / "suite.html").read_text(encoding="utf-8")
    cards = re.findall(r"<h2>(.*?)</h2>\s*<div class=\"return\">([\d.,-]+)", text)
    shown = {name.replace("<wbr>", ""): value for name, value in cards}
    assert shown == {k: f"{v['return']:,.1f}" for k, v in zoo.read_index().items()}
    assert text.count("data:video/mp4") == len(shown), "make it anew where PyAV and OpenGL are"


# The cards' names, from the top left.
SHOWN = """() => [...document.querySelectorAll(".task")]
    .map(e => [e.getBoundingClientRect(), e.querySelector("h2").textContent])
    .sort(([a, _], [b, __]) => a.top - b.top || a.left - b.left).map(pair => pair[1])"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_in_a_browser(size, scheme, browser, runs, tmp_path):  # noqa: F811
    page(runs, tmp_path / "a.html")
    width, height = size
    problems: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.append(request.url) if foreign(request.url) else 0)
    tab.goto((tmp_path / "a.html").as_uri(), wait_until="load")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BEYOND) == []
    images = tab.evaluate(WIDTHS)
    assert len(images) == 4 + 1 and all(images)
    tab.wait_for_function("document.querySelector('video').videoWidth == 128")
    names = ["cartpole_swingup", "fish_swim", "hopper_hop", "swimmer_swimmer6", "walker_run"]
    assert tab.evaluate(SHOWN) == names
    tab.get_by_text("by return").click()
    by_return = ["cartpole_swingup", "swimmer_swimmer6", "walker_run", "fish_swim", "hopper_hop"]
    assert tab.evaluate(SHOWN) == by_return
    tab.keyboard.press("ArrowRight")  # to "by steps", as with any radio button
    by_steps = ["hopper_hop", "walker_run", "cartpole_swingup", "fish_swim", "swimmer_swimmer6"]
    assert tab.evaluate(SHOWN) == by_steps
    tab.get_by_text("by name").click()
    assert tab.evaluate(SHOWN) == names
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(13, 17, 23)"}[scheme]
    tab.close()
    assert problems == []
