"""Two files of rows side by side, by hand; and rows as they are read."""

import json

import pytest

from fastsac.bench import command, rows
from fastsac.bench.compare import main
from fastsac.errors import ConfigError

MACHINE = {
    "cpu": "EPYC",
    "cores": 2,
    "gpu": None,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0", "triton": None},
    "commit": "abc1234",
    "date": "2026-11-25",
    "run": "2026-11-25T01:00:00-1",
    "peers": {"envpool": "1.2.5"},
}


def row(variant, median=None, low=None, high=None, **fields):
    start = {"level": "envs", "task": "walker_run", "engine": "native", "num_envs": 64}
    rate = {"median": median, "quartiles": [low, high]} if median is not None else {}
    group = {"unit": "env steps/s", "group": "walker_run 64"}
    return {**start, "variant": variant, **group, **rate, **MACHINE, **fields}


def write(path, *written):
    path.write_text("".join(f"{json.dumps(one)}\n" for one in written))
    return str(path)


@pytest.fixture
def compared(tmp_path, capsys):
    """Compares two lists of rows and returns the lines, or with --json the object."""

    def compare(a, b, *flags):
        main([write(tmp_path / "a.json", *a), write(tmp_path / "b.json", *b), *flags])
        out = capsys.readouterr().out
        return json.loads(out) if flags else out.splitlines()

    return compare


@pytest.mark.parametrize(
    ("median", "low", "high", "ratio", "interval", "verdict"),
    [
        (150, 140, 160, 1.5, [1.273, 1.778], "faster"),  # 140 / 110 and 160 / 90
        (50, 45, 55, 0.5, [0.409, 0.611], "slower"),  # 45 / 110 and 55 / 90
        (105, 95, 115, 1.05, [0.864, 1.278], "same"),  # 95 / 110 and 115 / 90
        (120, 110, 130, 1.2, [1.0, 1.444], "same"),  # 110 / 110: the interval holds 1
    ],
)
def test_a_case_by_hand(median, low, high, ratio, interval, verdict, compared):
    a, b = [row("ours", 100, 90, 110)], [row("ours", median, low, high)]
    (case,) = compared(a, b, "--json")["cases"]
    assert (case["a"], case["b"], case["ratio"]) == (100, median, ratio)
    assert case["interval"] == interval and case["verdict"] == verdict
    assert case["task"] == "walker_run" and case["unit"] == "env steps/s"
    line = compared(a, b)[-1].split()
    assert line[:7] == ["envs", "walker_run", "native", "64", "ours", "100", str(median)]
    assert line[-4:] == [f"{interval[0]:.2f}", "..", f"{interval[1]:.2f}", verdict]
    assert f"{ratio:.2f}x" in line


def test_a_rate_that_was_rounded_to_0_is_no_verdict(compared):
    (case,) = compared([row("ours", 0.0, 0.0, 0.0)], [row("ours", 5, 4, 6)], "--json")["cases"]
    assert case["ratio"] is None and case["verdict"] == "same"
    assert compared([row("ours", 0.0, 0.0, 0.0)], [row("ours", 5, 4, 6)])[-1].endswith("same")


def test_the_newest_of_several_rows_counts(compared):
    a = [row("ours", 100, 90, 110), row("ours", 200, 190, 210)]
    b = [row("ours", 400, 390, 410, run="2026-11-26T01"), row("ours", 1, 1, 1, run="2026-01-01T01")]
    (case,) = compared(a, b, "--json")["cases"]
    assert (case["a"], case["b"], case["ratio"]) == (200, 400, 2)


def test_what_is_missing_says_where_and_why(compared):
    a = [
        row("ours", 1, 1, 1),
        row("envpool", unavailable="not installed"),
        row("gymnasium", 2, 2, 2),
    ]
    b = [row("ours", 1, 1, 1), row("envpool", 3, 3, 3), row("physics", 4, 4, 4)]
    lines = compared(a, b)
    case = "envs walker_run native 64"
    assert f"unavailable {case} envpool in A: not installed" in lines
    assert f"only in A: {case} gymnasium" in lines and f"only in B: {case} physics" in lines
    found = compared(a, b, "--json")
    assert [one["variant"] for one in found["cases"]] == ["ours"]
    (one,) = found["unavailable"]
    assert one["variant"] == "envpool" and one["a"] == "not installed" and one["b"] is None
    assert [one["variant"] for one in found["only_in_a"]] == ["gymnasium"]
    assert [one["variant"] for one in found["only_in_b"]] == ["physics"]


def test_nothing_in_common_is_said(compared):
    assert "No case has a rate in both." in compared([row("ours", 1, 1, 1)], [row("x", 1, 1, 1)])


def test_another_machine_is_a_warning_before_all_else(compared):
    there = {"cores": 8, "gpu": "H100", "versions": {"torch": "2.14.0"}, "peers": {}}
    lines = compared([row("ours", 1, 1, 1)], [row("ours", 1, 1, 1, commit="def5678", **there)])
    assert lines[:4] == [
        "warning: cores is 2 in A, 8 in B",
        "warning: gpu is none in A, H100 in B",
        "warning: torch is 2.13.0 in A, 2.14.0 in B",
        "warning: envpool is 1.2.5 in A, none in B",
    ]
    assert lines[4].startswith("A ") and lines[4].endswith("a.json: commit abc1234, 2026-11-25")
    assert lines[5].startswith("B ") and "commit def5678" in lines[5]


def test_the_same_machine_is_no_warning(compared):
    lines = compared([row("ours", 1, 1, 1)], [row("ours", 2, 2, 2)])
    assert lines[0].startswith("A ") and not any("warning" in line for line in lines)


def test_trainings_are_left_out(compared):
    training = {"task": "walker_run", "setting": "cpu", "seed": 0, "steps": 1, "seconds": 2.0}
    training["final_return"] = 3.0
    ours = row("ours", 1, 1, 1)
    assert compared([training, ours], [ours]) == compared([ours], [ours])
    for nothing in ([training], []):
        with pytest.raises(ConfigError, match="b.json has no rows with rates"):
            compared([ours], nothing)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"level": "envs"', "line 2, is damaged"),
        ("[1, 2]", "line 2, is no row of fastsac bench: it has no level"),
        ('{"budget": "fast"}', "line 2, is no row of fastsac bench: it has no level"),
        ('{"level": "warp", "group": "g", "run": "r"}', "unknown level 'warp'"),
        ('{"level": ["envs"], "group": "g", "run": "r"}', "unknown level ['envs']"),
        ('{"level": "envs", "group": "g", "run": "r", "task": "x"}', "it has no engine"),
        (json.dumps(row("ours")), "it has no median"),
        (json.dumps(row("ours", "fast", 1, 1)), "its median is 'fast'"),
        (json.dumps(row("ours", float("nan"), 1, 1)), "its median is nan"),
        (json.dumps(row("ours", 10**400, 1, 1)), "its median is 1000"),
        (json.dumps(row("ours", 1, 1, None)), "its quartiles is [1, None]"),
        (json.dumps(row("ours", 1, 1, 1, samples=[-1])), "its samples is [-1]"),
        (json.dumps(row("ours", 1, 1, 1, num_envs="64")), "its num_envs is '64'"),
        (json.dumps(row("ours", 1, 1, 1, versions=["torch"])), "its versions is ['torch']"),
        ('{"setting": "cpu", "task": "x", "seed": 0}', "it has no steps"),
    ],
)
def test_bad_rows_are_one_sentence(content, words, tmp_path):
    good = write(tmp_path / "good.json", row("ours", 1, 1, 1))
    bad = tmp_path / "bad.json"
    bad.write_text(f"{json.dumps(row('ours', 1, 1, 1))}\n{content}\n")
    with pytest.raises(ConfigError) as caught:
        main([good, str(bad)])
    text = str(caught.value)
    assert words in text and str(bad) in text and "\n" not in text


def test_bad_files_are_one_sentence(tmp_path):
    good = write(tmp_path / "good.json", row("ours", 1, 1, 1))
    (tmp_path / "binary").write_bytes(b"\x89PNG\xff")
    for name, words in (("none", "No such file"), ("", "directory"), ("binary", "no text file")):
        with pytest.raises(ConfigError, match=words):
            main([good, str(tmp_path / name)])
    with pytest.raises(ConfigError, match="bench compare: .*B.json"):
        main([good])


def test_rows_of_an_older_bench_are_skipped_with_a_note(tmp_path, capsys):
    old = {"level": "envpool", "task": "walker_run", "median": 1.0}
    path = tmp_path / "old.json"
    write(path, old, row("ours", 1, 1, 1), old)
    (read,) = rows.read([path])
    assert read["variant"] == "ours" and read["file"] == str(path)
    assert capsys.readouterr().err == f"{path}: rows of an older bench, without a run, skipped: 2\n"


def test_ratios_are_paired_within_a_run_only(tmp_path):
    ours = row("ours", 20, 10, 60, samples=[10, 20, 60])
    peer = row("envpool", 20, 5, 40, samples=[5, 40, 20])
    path = tmp_path / "a.json"
    later = {**ours, "run": "2026-11-25T02:00:00-1"}
    write(path, ours, peer, later, row("envpool", 20, 5, 40, samples=[5, 40]))
    first, other, again, shorter = rows.read([path])
    assert rows.ratio(first, other) == 2  # of 10 / 5, 20 / 40 and 60 / 20
    assert rows.ratio(again, other) is None  # of two runs
    assert rows.ratio(first, shorter) is None  # a round is missing
    assert rows.ratio(first, {"unavailable": "gone"}) is None


@pytest.mark.parametrize("level", ["envs", "learner", "kernels", "train"])
def test_every_label_of_the_harness_is_known(level):
    cases = command._LEVELS[level](True)
    labels = {name for case in cases for name in case.labels}
    assert labels == set(rows.LABELS[level])
