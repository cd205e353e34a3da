"""Curves: what stands in them, worked out by hand, on any page, or one sentence."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fastsac.cli import main
from fastsac.runs.listing import read_metrics
from fastsac.show.plot import INK, draw_runs, labels, panels_of_returns
from tests.fastsac.run_samples import write_run


@pytest.fixture
def figures(monkeypatch):
    """What was saved, which is saved all the same."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))[1]
    )
    return saved


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a task and one of another."""
    return [
        write_run(tmp_path / "a", [(100, 10, 0, 5), (200, 20, 100, 5)], preset="cpu"),
        write_run(tmp_path / "b", [(150, 30, 150, 5), (300, 60, 300, 5)], preset="cpu", seed=1),
        write_run(tmp_path / "c", [(50, 1, 500, 5)], task="walker_run"),
    ]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_without_groups_each_run_is_a_line(runs, figures, tmp_path):
    assert main(["plot", *map(str, runs), str(runs[0]), "-o", str(tmp_path / "a.png")]) == 0
    steps, seconds = figures[0].axes
    first = steps.lines[0]
    assert first.get_xydata().tolist() == [[100, 0], [200, 100]]
    assert seconds.lines[0].get_xydata().tolist() == [[10, 0], [20, 100]]
    assert legend(figures[0]) == [
        "cartpole_swingup, preset cpu, seed 0",
        "cartpole_swingup, preset cpu, seed 1",
        "walker_run, preset seed, seed 0",
    ]
    assert figures[0].legends[0].get_title().get_text() == "each line is one run"
    band = steps.collections[0].get_paths()[0].vertices
    assert {(100.0, -5.0), (100.0, 5.0), (200.0, 95.0), (200.0, 105.0)} <= set(map(tuple, band))
    assert all(panel.get_ylim() == (0, 1000) for panel in figures[0].axes)


def test_groups_are_averaged_where_all_their_runs_have_data(runs, figures, tmp_path):
    argv = [*map(str, runs), "--group-by", "task", "-o", str(tmp_path / "a.svg")]
    assert main(["plot", *argv]) == 0
    steps, seconds = figures[0].axes
    assert legend(figures[0]) == ["cartpole_swingup (2 runs)", "walker_run (1 run)"]
    # Seed 0 has 50 at 150 steps; seed 1 has 200 at 200 steps, after 40 s.
    assert steps.lines[0].get_xydata().tolist() == [[150, 100], [200, 150]]
    assert seconds.lines[0].get_xydata().tolist() == [[22.5, 100], [30, 150]]
    assert steps.lines[1].get_xydata().tolist() == [[50, 500]]
    (band,) = steps.collections  # none of a single run
    corners = {(150.0, 50.0), (150.0, 150.0), (200.0, 100.0), (200.0, 200.0)}
    assert corners <= set(map(tuple, band.get_paths()[0].vertices))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("preset", ["preset cpu (2 runs)", "preset seed (1 run)"]),
        ("seed", ["seed 0 (2 runs)", "seed 1 (1 run)"]),
    ],
)
def test_groups_by_preset_and_by_seed(key, expected, runs, figures, tmp_path):
    write_run(tmp_path / "d", [(50, 1, 0, 0), (200, 2, 0, 0)], task="walker_run")
    chosen = [*runs[:2], tmp_path / "d"]
    argv = [*map(str, chosen), "--group-by", key, "-o", str(tmp_path / "a.png")]
    assert main(["plot", *argv]) == 0
    assert legend(figures[0]) == expected


def test_a_group_without_common_steps_is_a_sentence(tmp_path, capsys):
    write_run(tmp_path / "a", [(100, 1, 0, 0), (200, 2, 0, 0)])
    write_run(tmp_path / "b", [(201, 1, 0, 0), (300, 2, 0, 0)])
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "a.png")]
    assert main(["plot", *argv, "--group-by", "task"]) == 2
    sentence = "the runs of cartpole_swingup have no steps in common to average over"
    assert capsys.readouterr().err == f"fastsac: {sentence}\n"
    assert main(["plot", *argv]) == 0


def contrast(a, b):
    """Of two colours #rrggbb, as in WCAG 2."""

    def luminance(color):
        values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_pictures_read_on_light_and_dark_pages(page, runs, tmp_path):
    from matplotlib.colors import to_hex
    from PIL import Image

    curve, _ = read_metrics(runs[0])
    figure = draw_runs({f"run {i}": curve for i in range(8)})
    colors = [to_hex(line.get_color()) for line in figure.axes[0].lines]
    assert len(set(colors)) == 8 and min(contrast(c, page) for c in colors) > 3
    (legend,) = figure.legends
    texts = [*legend.get_texts(), legend.get_title()]
    for panel in figure.axes:
        texts += [panel.xaxis.label, panel.yaxis.label, *panel.get_xticklabels()]
        texts += [panel.title, *panel.get_yticklabels()]
    assert {to_hex(text.get_color()) for text in texts} == {INK} and contrast(INK, page) > 4
    figure.savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image)[..., 3] == 0).mean() > 0.5  # the page shows through


def test_many_lines_differ(runs):
    curve, _ = read_metrics(runs[0])
    figure = draw_runs({str(i): curve for i in range(24)})
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 24
    figure.canvas.draw()
    assert figure.axes[0].get_window_extent().height > 2 * figure.dpi  # the legend leaves room


def test_labels_tell_runs_apart(tmp_path):
    same = [write_run(tmp_path / name, []) for name in "ab"]
    (tmp_path / "old").mkdir()
    assert labels([*same, tmp_path / "old"]) == [
        f"cartpole_swingup, preset seed, seed 0, {same[0]}",
        f"cartpole_swingup, preset seed, seed 0, {same[1]}",
        "run old",
    ]


def test_one_run_is_named_too(runs, figures, tmp_path):
    assert main(["plot", str(runs[0]), "-o", str(tmp_path / "a.png")]) == 0
    assert legend(figures[0]) == ["cartpole_swingup, preset cpu, seed 0"]
    assert figures[0].legends[0].get_title().get_text() == "one run"


def test_names_are_not_formulas(figures, tmp_path):
    run = write_run(tmp_path / "a", [(1, 1, 1, 1)], task=r"$\frac$.py")
    other = write_run(tmp_path / "_b", [(1, 1, 1, 1)], task="_hidden.py")
    assert main(["plot", str(run), str(other), "-o", str(tmp_path / "a.png")]) == 0
    first, second = legend(figures[0])
    assert first.startswith(r"\$\frac\$, ") and second.startswith("_hidden, ")


def test_one_panel():
    figure, panels = panels_of_returns({"step": "steps"})
    assert list(panels) == ["step"] and len(figure.axes) == 1


def test_bad_input_is_a_sentence(runs, tmp_path, capsys):
    run = str(runs[0])
    write_run(tmp_path / "new", [])
    for argv, words in (
        ([run, "-o", "a.gif"], "-o must end in .png, .svg or .pdf, got a.gif"),
        ([run, "-o", str(tmp_path / "x" / "a.png")], "a.png: No such file or directory"),
        ([run, "--group-by", "day"], "--group-by: invalid choice: 'day'"),
        ([str(tmp_path / "no")], f"cannot read {tmp_path}/no/metrics.csv: No such file"),
        ([str(tmp_path / "new")], "new has no evaluation yet"),
    ):
        assert main(["plot", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    (runs[0] / "config.json").unlink()
    assert main(["plot", run, "-o", str(tmp_path / "a.png")]) == 0
    assert main(["plot", run, "--group-by", "seed", "-o", str(tmp_path / "a.png")]) == 2
    assert f"cannot read {runs[0] / 'config.json'}" in capsys.readouterr().err
