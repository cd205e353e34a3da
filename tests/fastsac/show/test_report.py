"""The report: what it says, and what a browser shows on a phone and a desk, light and dark."""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastsac
import fastsac.envs  # noqa: F401  (sets MUJOCO_GL before dm_control is imported)
from fastsac.cli import main
from fastsac.show import report
from tests.fastsac.run_samples import train_tiny, write_run

SMALL = {"size": (64, 48), "fps": 5.0, "seconds": 1.0}
FILM = Path(__file__).parents[3] / "results" / "cartpole_swingup.gif"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
MACHINE = {
    "machine": "a desk",
    "gpu": None,
    "cores": 2,
    "versions": {"torch": "2.13.0", "mujoco": "3.17.0"},
    "command": "fastsac train cartpole_swingup --preset cpu --total-steps 10000",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a tiny trained run of cartpole_balance."""
    return train_tiny(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def finished(tmp_path):
    """A whole run with a film."""
    evaluations = [(5_000, 200.0, 310.0, 40.0), (10_000, 400.0, 850.25, 1.5)]
    run = write_run(tmp_path / "finished", evaluations, preset="cpu", seed=7, result=(850.25, 1.5))
    (run / "machine.json").write_text(json.dumps(MACHINE))
    shutil.copy(FILM, run / "film.gif")
    return run


def page(runs, output, *flags):
    """The text of a report's page."""
    assert main(["report", *map(str, runs), "-o", str(output), *flags]) == 0
    return output.read_text(encoding="utf-8")


def cells(text):
    """The rows of the page's tables, without tags."""
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in plain]


def test_a_run_with_everything(finished, tmp_path, capsys):
    text = page([finished], tmp_path / "a.html")
    assert re.fullmatch(r"\S+/a.html: \d+ kB\n", capsys.readouterr().out)
    assert "850.2" in text and "± 1.5" in text and "mean and standard deviation of 2 epis" in text
    assert "7 min 49 s" in text and "848.8 to 851.8" in text and "10,000 of 10,000" in text
    assert base64.b64encode(FILM.read_bytes()).decode() in text and "film.gif, as found" in text
    command = re.search(r"<pre>(.*?)</pre>", text).group(1)
    assert re.sub(r"<.*?>", "", command).strip() == MACHINE["command"]
    plain = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert plain["versions"] == "torch 2.13.0, mujoco 3.17.0" and plain["gpu"] == "none"
    assert plain["updates"] == "900" and "command" not in plain
    rows = cells(text)
    assert ["sac.hidden_sizes", "256, 256", "256, 256"] in rows
    assert ["total_steps", "10000", "150000"] in rows and ["seed", "7", "0"] in rows
    marked = re.findall(r'class="differs">\s*<th[^>]*>(.*?)</th>', text)
    assert [name.replace("<wbr>", "") for name in marked] == ["seed", "total_steps"]
    assert len(re.findall("data:image/svg", text)) == 2


def test_several_runs_begin_with_a_table_and_their_curves(finished, tmp_path):
    other = write_run(tmp_path / "other", [(5_000, 9.0, 40.0, 4.0)], task="walker_run")
    new = write_run(tmp_path / "new", [])
    text = page([finished, other, new, finished], tmp_path / "a.html", "--no-video")
    rows = cells(text)
    assert rows[0] == ["run", "return", "steps", "preset", "seed", "state"]
    assert [row[1:] for row in rows[1:4]] == [
        ["850.2", "10,000 of 10,000", "cpu", "7", "finished"],
        ["40.0", "5,000 of 10,000", "seed", "0", "stopped"],
        ["–", "0 of 10,000", "seed", "0", "stopped"],
    ]
    assert "walker_run" in rows[2][0] and "3 runs" in text and "All runs" in text
    assert "there is no evaluation yet" in text and "image/gif" not in text
    assert len(re.findall("data:image/svg", text)) == 2 + 2 + 2
    assert text.count("The machine was not recorded.") == text.count("The command was not") == 2


def test_the_film_is_rendered_where_there_is_none(trained, tmp_path, monkeypatch):
    from fastsac.show.video import Shot, record

    monkeypatch.setattr(report, "_SHOT", SMALL)
    before = sorted(trained.iterdir())
    text = page([trained], tmp_path / "a.html")
    assert sorted(trained.iterdir()) == before
    if "There is no film: OpenGL" in text:
        pytest.skip("no OpenGL")
    film = record(trained, tmp_path / "b.gif", Shot(**SMALL))
    assert base64.b64encode((tmp_path / "b.gif").read_bytes()).decode() in text
    assert f"its return is {film.returns[0]:.1f}" in text


def test_no_checkpoint_and_no_opengl_are_a_sentence_on_the_page(trained, finished, tmp_path):
    (finished / "film.gif").write_bytes(b"<script>")  # none that a browser shows
    text = page([finished], tmp_path / "a.html")
    assert "There is no film: " in text and "checkpoint" in text and "image/gif" not in text
    argv = ["-m", "fastsac", "report", str(trained), "-o", str(tmp_path / "b.html")]
    environment = os.environ | {"MUJOCO_GL": "disabled"}
    subprocess.run([sys.executable, *argv], env=environment, timeout=120, check=True)
    assert "There is no film: OpenGL fails here" in (tmp_path / "b.html").read_text()


def hostile(tmp_path):
    """Runs whose every text is an attack."""
    run = write_run(tmp_path / "<script>alert(1)<", [(5, 1.0, 2.0, 3.0)], task=HOSTILE)
    config = json.loads((run / "config.json").read_text())
    config |= {"preset": HOSTILE, HOSTILE: HOSTILE, "seed": 3}
    (run / "config.json").write_text(json.dumps(config))
    (run / "machine.json").write_text(
        json.dumps({HOSTILE: HOSTILE, "versions": {HOSTILE: [HOSTILE]}, "command": HOSTILE * 9})
    )
    (run / "result.json").write_text(
        json.dumps({"mean": 1.0, "std": 0.0, "backend": HOSTILE, "returns": HOSTILE, "seconds": []})
    )
    return [run, write_run(tmp_path / ("long" * 50), [(5, 1.0, 2.0, 3.0)], seed=2**32 - 1)]


def test_what_comes_from_files_is_escaped(tmp_path):
    text = page(hostile(tmp_path), tmp_path / "a.html")
    assert text.count("<script") == 0 and text.count("onerror") == text.count(
        "onerror=alert(1)&gt;"
    )
    assert text.count("</style>") == 1 and "unknown --preset" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&amp;amp;" in text


@pytest.mark.parametrize("kind", ["command as a list", "values of all kinds"])
def test_any_json_of_the_machine_is_shown(kind, finished, tmp_path):
    if kind == "command as a list":
        (finished / "machine.json").write_text('{"command": ["fastsac", "train", "a b.py"]}')
        assert "<span>&#39;a</span> <span>b.py&#39;</span>" in page([finished], tmp_path / "a.html")
        return
    values = {"a": [1, [2, {"b": None}]], "c": {}, "d": True, "e": 1e400, "command": {"x": 1}}
    (finished / "machine.json").write_text(json.dumps(values))
    text = page([finished], tmp_path / "a.html")
    assert "<dd>1, 2, b none</dd>" in text and "<dt>e</dt><dd>inf</dd>" in text


def test_bad_input_is_a_sentence_and_no_page(finished, tmp_path, capsys, monkeypatch):
    output = tmp_path / "a.html"
    for argv, words in (
        ([str(tmp_path / "no")], f"cannot read {tmp_path}/no: No such file"),
        ([str(finished), "-o", str(tmp_path / "a.pdf")], "-o must be a file that ends in .html"),
        ([str(finished), "-o", str(tmp_path / "x" / "a.html")], "there is no directory"),
        ([], "the following arguments are required: RUN"),
    ):
        assert main(["report", "-o", str(output), *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fastsac: ") and words in line
    (finished / "machine.json").write_text("{")
    assert main(["report", str(finished), "-o", str(output)]) == 2
    assert "machine.json, line 1: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(finished), "-o", str(output)]) == 2
    sentence = "a report needs Jinja2: pip install 'fastsac[report]'"
    assert capsys.readouterr().err == f"fastsac: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["finished"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["background-networking", "component-update", "gpu", "quic", "sync"]
    arguments = ["--no-sandbox", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


# Right edges beyond the window, of what is shown.
BEYOND = """() => [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))"""
WIDTHS = """() => [...document.images].map(image => image.complete && image.naturalWidth)"""
PHONE, DESK = (375, 800), (1280, 900)
SHOWN = list(itertools.product([False, True], [PHONE, DESK], ["light", "dark"]))
QUICK = [(False, DESK, "light"), (True, PHONE, "dark")]  # each of the three both ways


@pytest.mark.parametrize(
    ("many", "size", "scheme"),
    [pytest.param(*x, marks=() if x in QUICK else pytest.mark.slow) for x in SHOWN],
)
def test_in_a_browser(many, size, scheme, browser, finished, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "mp4")
    encode_mp4(tmp_path / "mp4" / "film.mp4")
    others = [*hostile(tmp_path), tmp_path / "mp4", write_run(tmp_path / "new", [])]
    page([finished, *(others if many else [])], tmp_path / "a.html")
    width, height = size
    problems: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: (problems.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: problems.append(request.url) if foreign(request.url) else 0)
    tab.goto((tmp_path / "a.html").as_uri(), wait_until="load")
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BEYOND) == []
    images = tab.evaluate(WIDTHS)
    assert len(images) == (2 + 1 + 2 * 4 if many else 2 + 1) and all(images)
    if many:
        tab.wait_for_function("document.querySelector('video').videoWidth == 128")
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(13, 17, 23)"}[scheme]
    tab.close()
    assert problems == []


def foreign(url):
    return not url.startswith(("file://", "data:"))


def encode_mp4(output):
    """Writes a film of a second."""
    import numpy as np

    from fastsac.show.video_writers import Mp4

    writer = Mp4((128, 96), 0.1)
    for i in range(10):
        writer.add(np.full((96, 128, 3), 20 * i, np.uint8))
    output.write_bytes(writer.encode())
