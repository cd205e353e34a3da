"""The report of doctor --gpu: a line a check, whatever a check does to its process."""

import pytest

from fastsac.cli import main
from fastsac.show import doctor, gpu_checks
from fastsac.show.gpu_checks import Check

# As gpu_checks.run_from, with what checks may do.
CHILD = """
import json, os, sys, time
def say(passed, sentence):
    print({result!r} + json.dumps([passed, sentence]), flush=True)
print("something of a library's")
for what in {whats!r}[{{first}}:]:
    if what == "good": say(True, "as it should be")
    elif what == "bad": say(False, "ValueError: not so")
    elif what == "bad and unusable": say(False, "RuntimeError: CUDA error"); sys.exit("sticky")
    elif what == "crash": sys.stderr.write("first\\nout of luck\\n"); sys.stderr.flush(); os.abort()
    elif what == "hang": time.sleep(60)
"""


@pytest.fixture
def report(monkeypatch, capsys):
    """Returns exit code, lines and last words of doctor --gpu where its checks do these things."""

    def run(*whats):
        child = CHILD.format(result=gpu_checks.RESULT, whats=whats).replace("{", "{{")
        child = child.replace("}", "}}").replace("{{first}}", "{first}")
        checks = [Check(f"check {i}", str, f"advice {i}") for i in range(len(whats))]
        monkeypatch.setattr(doctor, "_require_gpu", lambda: None)
        monkeypatch.setattr(doctor, "_CHECKS", child)
        monkeypatch.setattr(gpu_checks, "CHECKS", checks)
        code = main(["doctor", "--gpu"])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def verdicts(lines):
    return [line.split()[0] for line in lines if not line.startswith(" ")]


def test_all_is_well(report):
    code, lines, error = report("good", "good")
    assert code == 0 and error == "" and verdicts(lines) == ["ok", "ok"]
    assert lines[1].startswith("ok    check 1 ") and lines[1].endswith("as it should be")


def test_a_failure_stops_no_other_and_says_what_to_do(report):
    code, lines, error = report("good", "bad", "good")
    assert code == 1 and error == "fastsac: 1 of 3 checks failed\n"
    assert verdicts(lines) == ["ok", "FAIL", "ok"]
    assert lines[1].endswith("ValueError: not so") and lines[2].strip() == "-> advice 1"


@pytest.mark.parametrize("first", ["crash", "bad and unusable"])
def test_neither_does_a_process_that_ends(report, first):
    code, lines, error = report(first, "good", first, first, "good", first)
    assert code == 1 and error == "fastsac: 4 of 6 checks failed\n"
    assert verdicts(lines) == ["FAIL", "ok", "FAIL", "FAIL", "ok", "FAIL"]
    if first == "crash":
        assert lines[0].endswith("its process ended with code -6: out of luck")


def test_time_is_limited(report, monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 1.0)
    code, lines, _ = report("good", "hang", "good")
    assert code == 1 and verdicts(lines) == ["ok", "FAIL", "FAIL"]
    assert lines[1].endswith("no answer within 1 s of all checks")


def test_without_a_gpu_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["doctor", "--gpu"]) == 1
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert not captured.out and "sees no GPU here" in line and "install" in line
