"""What is recorded of the machine, where parts of it are missing."""

import subprocess

from fastsac import machine


def test_versions_and_commit_are_those_of_this_tree():
    found = machine.machine()
    head = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, cwd=machine.Path(__file__).parent)
    if commit.returncode == 0:
        assert found["commit"].startswith(commit.stdout.strip())
    assert found["versions"]["fastsac"] == "0.1.0" and found["versions"]["torch"]
    assert found["cores"] >= 1 and found["cpu"]


def test_a_machine_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.machine()["commit"] == "unknown"


def test_an_installed_package_is_of_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "fastsac" / "machine.py"))
    assert machine.machine()["commit"] == "unknown"
