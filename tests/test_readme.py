"""The README's Python example runs as it is written."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["action"].shape == (1,)
    assert names["result"].updates == 201
    assert (names["result"].run_dir / "checkpoint.pt").is_file()
