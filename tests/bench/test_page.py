"""The page of results from rows written by hand, its figures worked out here."""

import json
import re
from xml.etree import ElementTree

import pytest

from fastsac.bench import rows
from fastsac.bench.page import main
from fastsac.bench.page_tables import comparisons
from fastsac.errors import ConfigError

MACHINE = {
    "cpu": "EPYC",
    "cores": 2,
    "gpu": None,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
    "commit": "abc1234",
    "date": "2026-11-25",
    "run": "2026-11-25T01:00:00-1",
    "peers": {"envpool": "1.2.5"},
}
ENVS = {"level": "envs", "task": "walker_run", "engine": "native", "num_envs": 64}
UPDATES = {"level": "learner", "device": "cpu", "batch_size": 256, "hidden_sizes": "256-256"}
KERNEL = {"level": "kernels", "kernel": "polyak", "device": "cuda", "size": "7"}
LOOP = {"level": "train", "task": "cheetah_run", "preset": "cpu", "num_envs": 64}
LOOP["updates_per_step"] = 0.125
RUN = {"task": "walker_run", "setting": "cpu", "seed": 0, "flags": ["--preset", "cpu"]}
RUN |= {"steps": 2000, "seconds": 30.0, "cpu_seconds": 50.0, "final_return": 400.0, "jobs": 2}


def row(labels, variant, *samples, unit="env steps/s", **fields):
    """A row with the middle one of its samples as the median."""
    low, median, high = sorted(samples or [1, 1, 1])
    rate = {"median": median, "quartiles": [low, high], "samples": list(samples)}
    start = {**labels, "variant": variant, "unit": unit, "group": f"{labels.get('task')} g"}
    return {**start, **({} if "unavailable" in fields else rate), **MACHINE, **fields}


@pytest.fixture
def page(tmp_path):
    """Makes the page of some rows and returns its text."""

    def make(*written, directory="page"):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{json.dumps(one)}\n" for one in written))
        main([str(path), "-o", str(tmp_path / directory)])
        return (tmp_path / directory / "README.md").read_text()

    return make


def cells(text, *start):
    """The cells of the first table line that begins with these, by their headings."""
    header: list[str] = []
    for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        found = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ---"):
            header = [cell.strip() for cell in before.strip("|").split(" | ")]
        elif line.startswith("|") and found[: len(start)] == list(start):
            return dict(zip(header, found, strict=True))
    raise AssertionError(f"no line {start} in {text}")


def wins(text):
    return text.partition("## Where a peer wins\n")[2].partition("\n## ")[0].strip()


def test_ours_beside_a_peer_and_the_physics(page):
    text = page(
        row(ENVS, "ours", 10, 20, 60),
        row(ENVS, "physics", 12, 25, 60),
        row(ENVS, "envpool", 5, 40, 20),
        row(ENVS, "gymnasium", unavailable="not | installed"),
    )
    line = cells(text, "walker_run", "native", "64")
    assert (line["ours"], line["envpool"], line["gymnasium"]) == ("20", "20", "-")
    assert line["ours / envpool"] == "2.00x"  # of 10 / 5, 20 / 40 and 60 / 20
    assert line["physics alone"] == "25" and line["our step costs"] == "1.20x"
    assert line["goal"] == "1.3x: met"
    assert "- gymnasium (1): `not | installed`" in text
    assert "`fastsac bench envs --json" in text and "2026-11-25 at commit abc1234" in text
    details = cells(text, "walker_run", "native", "64", "envpool")
    assert details["quartiles"] == "5.0 - 40" and details["rounds"] == "3"


@pytest.mark.parametrize(
    ("task", "gpu", "physics", "goal"),
    [
        ("walker_run", None, 130, "1.3x: met"),
        ("humanoid_walk", None, 131, "1.3x: missed"),
        ("humanoid_walk", "H100", 115, "1.15x: met"),
        ("walker_run", "H100", 120, "1.15x: missed"),
        ("cheetah_run", None, 200, None),
        ("humanoid_CMU_run", None, 200, None),
    ],
)
def test_the_goals(task, gpu, physics, goal, page):
    labels = {**ENVS, "task": task}
    rates = (
        row(labels, "ours", *[100] * 3, gpu=gpu),
        row(labels, "physics", *[physics] * 3, gpu=gpu),
    )
    line = cells(page(*rates), task)
    assert line["our step costs"] == f"{physics / 100:.2f}x" and line.get("goal") == goal


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (
            [125] * 3,
            "So many times as fast as ours is:\n\n- Environment steps, machine A: "
            "**envpool** in 1 of 1 (walker_run, native, 64 worlds: 1.25x)",
        ),
        ([100] * 3, "Nowhere: ours is at least as fast in every comparison (1)."),
        ([99] * 3, "Nowhere: ours is at least as fast in every comparison (1)."),
    ],
)
def test_where_a_peer_wins(peer, said, page):
    text = page(row(ENVS, "ours", *[100] * 3), row(ENVS, "envpool", *peer))
    assert wins(text) == said
    assert ("**" in cells(text, "walker_run")["ours / envpool"]) == (peer[0] > 100)


def test_physics_parts_and_limits_are_no_peers(page):
    text = page(
        row(ENVS, "ours", *[100] * 3),
        row(ENVS, "physics", *[500] * 3),
        row({**UPDATES, "precision": "float32"}, "matmul", *[9e9] * 3, unit="flops/s"),
        row(LOOP, "ours", *[100] * 3),
        row(LOOP, "learner", *[400] * 3),
    )
    assert wins(text) == "No peer was measured beside ours."
    details = cells(text, "cpu", "256", "256-256", "matmul")
    assert (details["median"], details["unit"]) == ("9.0", "Gflops/s")


def test_a_learner_is_held_against_ours_that_is_most_like_it(tmp_path):
    def update(variant, rate, precision, updates):
        labels = {**UPDATES, "precision": precision, "updates_per_call": updates}
        return row(labels, variant, *[rate] * 3, unit="updates/s")

    path = tmp_path / "rows.jsonl"
    written = [
        update("ours", 100, "float32", 1),
        update("ours", 200, "float32", 64),
        update("ours", 300, "bf16", 64),
        update("sbx", 100, "float32", 64),
        update("eager", 50, "float32", 1),
        update("compile", 100, "bf16", 1),  # ours has 64 a call only
        update("compile", 100, "tf32", 1),  # ours has none
        row(KERNEL, "eager", *[10] * 3),
        row(KERNEL, "compile+graph", *[10] * 3),
        row(KERNEL, "ours", *[20] * 3),
        row(KERNEL, "ours+graph", *[40] * 3),
    ]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in written))
    found = {
        (c.peer["variant"], c.peer.get("precision")): c.times
        for c in comparisons(rows.read([path]))
    }
    assert found == {
        ("sbx", "float32"): 2,
        ("eager", "float32"): 2,
        ("compile", "bf16"): 3,
        ("eager", None): 2,
        ("compile+graph", None): 4,
    }
    main([str(path), "-o", str(tmp_path / "page")])
    text = (tmp_path / "page" / "README.md").read_text()
    assert cells(text, "cpu", "256", "256-256", "bf16", "1")["ours / compile"] == r"3.00x \*"
    assert cells(text, "cpu", "256", "256-256", "float32", "64")["ours / sbx"] == "2.00x"


@pytest.mark.parametrize(
    ("learner", "share", "rest"), [(200, "50.0%", "20.0%"), (110, "90.9%", "-20.9%")]
)
def test_the_loops_parts(learner, share, rest, page):
    text = page(
        row(LOOP, "ours", *[100] * 3),
        row(LOOP, "env", *[500] * 3),
        row(LOOP, "learner", *[learner] * 3),
        row(LOOP, "transfer", *[1000] * 3),
    )
    start = "| task | preset |"
    line = cells(start + text.split(start)[2], "cheetah_run", "cpu", "64")
    assert (line["env"], line["learner"], line["transfer"]) == ("20.0%", share, "10.0%")
    assert line["rest"] == rest and line["updates a vector step"] == "0.125"


def test_a_part_that_is_missing_leaves_no_rest(page):
    loop = [row(LOOP, "ours", *[100] * 3), row(LOOP, "learner", *[200] * 3)]
    assert "| - | 50.0% | - | - |" in page(*loop, row(LOOP, "env", unavailable="no"))
    assert "| - | - | - | - |" in page(loop[1], row(LOOP, "ours", unavailable="no"))


def test_what_is_not_measured_on_a_gpu_is_said(page):
    text = page(row(ENVS, "ours", 1, 2, 3))
    titles = "Environment steps, Updates, Kernels, The training loop, Learning speed"
    assert f"**Not measured on a GPU yet:** {titles}." in text
    assert text.count("\nNot measured yet.\n") == 4
    every = [row(labels, "ours", 1, 2, 3, gpu="H100") for labels in (ENVS, UPDATES, KERNEL, LOOP)]
    text = page(*every, {**RUN, **MACHINE, "gpu": "H100"})
    assert "Not measured" not in text and cells(text, "A")["GPU"] == "H100"
    assert "**Not measured on a GPU yet:** Learning speed." in page(*every)


def test_the_newest_row_of_a_machine_counts(page):
    text = page(
        row(ENVS, "ours", 7, 7, 7, run="2026-11-26T01"),
        row(ENVS, "ours", 5, 5, 5),
        row(ENVS, "ours", 9, 9, 9, cores=8),
        row(ENVS, "ours", 8, 8, 8, cores=8),
    )
    first, second = text.split("### Environment steps, machine ")[1:]
    assert {cells(first, "walker_run")["ours"], cells(second, "walker_run")["ours"]} == {
        "7.0",
        "8.0",
    }
    cores = {cells(text, letter)["cores"] for letter in "AB"}
    assert cores == {"2", "8"} and "torch 2.13.0" in cells(text, "A")["versions"]


def test_rows_without_a_rate_make_no_empty_tables(page):
    text = page(
        row(ENVS, "ours", unavailable="too late"),
        row({**UPDATES, "precision": "float32"}, "matmul", unavailable="too late"),
        row(KERNEL, "copy", *[2e9] * 3, unit="bytes/s"),
        row(LOOP, "ours", 0, 0, 0),
        row(LOOP, "sb3", 0, 0, 0),
    )
    assert "- ours (1): `too late`" in text and "|  |\n| --- |" not in text
    assert "\n\n\n" not in text and text.count("<details>") == 2
    assert wins(text) == "No peer was measured beside ours."


def test_trainings(page):
    text = page(
        RUN | MACHINE, {**RUN, **MACHINE, "seed": 1, "seconds": 50.0, "final_return": 500.0}
    )
    line = cells(text, "walker_run", "cpu")
    assert list(line.values())[2:] == ["2", "450.0", "2,000", "40", "50"]
    assert (
        "\nfastsac bench learning walker_run --seeds 2 --jobs 2 --setting 'cpu=--preset cpu'\n"
        in text
    )
    (link,) = re.findall(r"\]\((.*learning/README.md)\)", text)
    assert link.endswith("bench/results/learning/README.md")


def many():
    """Rows of every level on two machines, with every picture."""
    for extra in ({}, {"gpu": "H100"}):
        for worlds in (64, 256):
            for variant, rate in (("ours", 100), ("physics", 140), ("envpool", 90), ("x", 150)):
                labels = {**ENVS, "num_envs": worlds}
                yield row(labels, variant, rate, rate + 1, rate + worlds, **extra)
        for labels in (UPDATES, KERNEL, LOOP):
            yield row(labels, "ours", 3, 4, 5, **extra, setup_s=1.5, memory_mb=20.0)
            yield row(labels, "eager", 3, 3, 3, **extra)
        yield {**RUN, **MACHINE, **extra}


def test_the_same_rows_give_the_same_bytes_and_every_picture_is_there(page, tmp_path):
    text = page(*many(), directory="a")
    page(*many(), directory="b")
    a, b = tmp_path / "a", tmp_path / "b"
    assert text == (b / "README.md").read_text()
    pictures = re.findall(r"\]\((plots/.*?)\)", text)
    assert len(pictures) == 10
    assert {f"plots/{path.name}" for path in (a / "plots").iterdir()} == {*pictures}
    for name in pictures:
        svg = (a / name).read_text()
        assert svg == (b / name).read_text()
        ElementTree.fromstring(svg)
        assert "dc:date" not in svg and "#ffffff" not in svg


def test_pictures_of_machines_that_are_gone_go_too(page, tmp_path):
    page(*many())
    plots = tmp_path / "page" / "plots"
    (plots / "of-somebody-else.svg").write_text("kept")
    page(row(ENVS, "ours", 1, 2, 3), row(ENVS, "envpool", 1, 2, 3))
    assert {path.name for path in plots.iterdir()} == {"envs-a.svg", "of-somebody-else.svg"}


def test_bad_input_is_one_sentence(page, tmp_path, capsys):
    def sentence(*args):
        with pytest.raises(ConfigError) as caught:
            main([*map(str, args)])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cannot read" in sentence(tmp_path / "none.jsonl")
    (tmp_path / "old.jsonl").write_text('{"level": "envpool", "median": 1.0}\n')
    assert "there are no rows" in sentence(tmp_path / "old.jsonl")
    assert "without a run, skipped: 1" in capsys.readouterr().err
    page(row(ENVS, "ours", 1, 2, 3))
    path = tmp_path / "rows.jsonl"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "README.md").write_text("# Mine\n")
    assert "is not ours to overwrite" in sentence(path, "-o", theirs)
    assert (theirs / "README.md").read_text() == "# Mine\n" and len(list(theirs.iterdir())) == 1
    assert "cannot write --output" in sentence(path, "-o", path)
    assert "bench page: " in sentence("--no-such-flag")


def test_our_own_results_make_a_page(tmp_path):
    main(["-o", str(tmp_path)])
    assert "## Machines" in (tmp_path / "README.md").read_text()
