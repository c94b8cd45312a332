import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_guides_snippets_run_in_order(capsys):
    result = snippets("docs/guides/evaluation.md")
    assert len(result) >= 7
    scope = {}
    for number, code in enumerate(result):
        exec(compile(code, f"docs/guides/evaluation.md, snippet {number + 1}", "exec"), scope)
    printed = capsys.readouterr().out
    assert "| popularity (floor) | - |" in printed and "ndcg@10 both:" in printed


@pytest.mark.parametrize("number", [0, 1])
def test_the_metric_cards_snippets_run(number, tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path)
    code = snippets("metrics/recsys_ranking/README.md")[number]
    scope = {"evaluate": evaluate}
    exec(compile(code, f"README.md, snippet {number + 1}", "exec"), scope)
    assert scope["result"]
