import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("benchmark_table", ROOT / "benchmarks" / "table.py")
made = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(made)


def test_the_page_shows_what_was_measured():
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.with_table(text, made.table()) == text, "run python benchmarks/table.py --write"
    for path in (ROOT / "benchmarks" / "measured").glob("*.json"):
        assert (ROOT / "benchmarks" / f"{path.stem}.py").is_file()
        found = json.loads(path.read_text(encoding="utf-8"))
        assert f"`{path.stem}.py`" in text
        assert found["bar"] is None or found["met"] in (True, False)


def test_rows_are_what_the_script_printed(tmp_path):
    line = {"claim": "a step", "unit": "s", "ours": {"1": 0.51234, "32": 2.0}, "other": 1234, "ratio": 2.5, "bar": 2}
    (tmp_path / "vision_cache.json").write_text(json.dumps(line))
    (tmp_path / "loss_overhead.json").write_text(json.dumps({**line, "ours": None, "bar": None}))
    rows = made.table(tmp_path).splitlines()[2:]
    assert rows[0] == "| `loss_overhead.py` | a step (s) |  | 1,234 | 2.5 |  |"
    assert rows[1] == "| `vision_cache.py` | a step (s) | 1: 0.5123, 32: 2 | 1,234 | 2.5 | at least 2 |"
    (tmp_path / "loss_overhead.json").write_text(json.dumps({"claim": "a step"}))
    with pytest.raises(ValueError, match=r"loss_overhead\.json lacks \['ours'"):
        made.table(tmp_path)
    with pytest.raises(ValueError, match="speed"):
        made.with_table("no marks", "x")
