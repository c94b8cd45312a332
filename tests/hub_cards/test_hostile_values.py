"""Values that hold Markdown, HTML, YAML or Jinja break neither front matter nor layout; tokens stay out."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm2rec_hf.hub_cards import EmbedderFacts, SpaceFacts, render_embedder_card, render_space_card
from vlm2rec_hf.hub_cards.markdown import code, escape, fenced, json_block, python_string, table
from vlm2rec_hf.hub_cards.run_facts import DatasetReference, EvaluationFacts, TrainingFacts

from .card_builders import snippets

HOSTILE = [
    "x\n---\nlicense: mit\n---\n# Owned",
    "a: b # c",
    "{{ 7 * 7 }}{% raw %}{{ facts }}",
    "<script>alert(1)</script><!-- ",
    "```\n# out of the fence\n```",
    "| a | b |\n|---|---|",
    "![p](http://evil/x.png) [l](javascript:1)",
    "</details>\n\n## Results",
    "'\"\\",
    "\u2028# line \x00 \x85 separators",
    "# heading",
    "- [ ] list",
    "1. one",
    "=== ",
    "$$x$$ ~~s~~ **b** _i_ `c`",
    "!!python/object:os.system",
]


def facts_with(text):
    data = DatasetReference(
        name=text, repo_id=text, revision=text, fingerprint=text, license=text, split={"kind": text}
    )
    training = TrainingFacts(
        text, text, text, data, text, text, {text: text}, {"x": text}, {}, 1, 2, 3.0, {"torch": text}
    )
    summary = {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 9}
    evaluation = EvaluationFacts(
        text, {"split": text, "k": [10], "ties": text, "targets": text}, text, 9, 10,
        {text: {"ndcg@10": summary, text: summary}}, {text: {"ndcg@10": summary}}, {text: 0.5}, data, None,
    )  # fmt: skip
    return EmbedderFacts(
        text, text, text, {"fusion": "external"}, {}, True, True, training, evaluation, (f"{text}.png",)
    )


def headings(text):
    return re.findall(r"^#+ .*$", re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


EXPECTED = headings(render_embedder_card(facts_with("plain")))[1:]


def check(text):
    card = render_embedder_card(facts_with(text))
    data = ModelCard(card).data
    assert data.license == "other" and data.pipeline_tag == "feature-extraction" and len(data.eval_results) == 2
    assert set(data.to_dict()) <= {
        "library_name", "pipeline_tag", "tags", "license", "license_name", "model-index", "base_model",
        "base_model_relation", "datasets",
    }  # fmt: skip
    assert headings(card)[1:] == EXPECTED
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"^(`{3,}).*?^\1$", "", body, flags=re.M | re.S))
    tags = set(re.findall(r"<(?!!-- written by)[^>\n]*>", outside))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>", "<code>", "</code>"}
    targets = re.findall(r"(?<!\\)\]\(([^)]*)\)", outside)
    assert all(target.startswith(("https://huggingface.co/", "%")) or target.endswith(".png") for target in targets)
    assert not any(":" in target.removeprefix("https:") for target in targets)
    for parts in snippets(card).values():
        for snippet in parts:
            compile(snippet, "card", "exec")
    return card


@pytest.mark.parametrize("text", HOSTILE)
def test_layout_holds(text):
    check(text)
    space = render_space_card(SpaceFacts("org/x", text, text, models=(text,)))
    front = yaml.safe_load(space.split("---\n")[1])
    assert front["sdk"] == "gradio" and front["title"] == " ".join(
        re.sub(r"[\x00-\x1f\x7f-\x9f\u2028]", " ", text).split()
    )
    assert headings(space)[1:] == ["## What it uses", "## Run it yourself", "## Limits", "## Licences", "## Citation"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.text(
        alphabet=st.sampled_from("ab01`~*_#-=+|<>&!:/\\[](){}%$\"'. \n\r\t\x85\u2028é🛒\ud800"), min_size=1
    ).filter(str.strip)
)
def test_layout_holds_for_anything(text):
    check(text).encode("utf-8")


@settings(max_examples=200, deadline=None, derandomize=True)
@example("a\\|b")
@given(st.text())
def test_values_stay_values(text):
    assert "\n" not in escape(text) and "\n" not in code(text) and "<" not in escape(text)
    literal = python_string(text)
    assert "\n" not in literal and eval(literal) == text
    block = json_block({"x": text}).split("\n")
    fence = re.match("`+", block[0])[0]
    assert block[-1] == fence and not any(line.startswith(fence) for line in block[1:-1])
    assert json.loads("\n".join(block[1:-1])) == {"x": text}
    lines = table(["a", "b"], [(text, code(text))]).split("\n")
    assert len(lines) == 3 and len(re.findall(r"(?<!\\)\|", lines[2].replace("\\\\", ""))) == 3


def test_a_bar_in_code_is_shown_alone_in_a_table_and_outside():
    assert code("a|b") == r"<code>a\|b</code>" and code(r"a\|b*") == r"<code>a\\\|b\*</code>"
    assert code("<a|b>") == r"<code>&lt;a\|b&gt;</code>"


def test_a_fence_outgrows_what_it_holds():
    assert fenced("````\nx", "text").startswith("`````text\n")
    with pytest.raises(ValueError, match="`value` is None"):
        escape(None)


@pytest.mark.parametrize("place", ["repo_id", "license", "revision"])
def test_tokens_are_refused_wherever_they_stand(place):
    token = "hf_" + "aBcD1234" * 4
    with pytest.raises(ValueError, match="looks like an access token in line") as caught:
        render_embedder_card(EmbedderFacts(**{"repo_id": "org/x", place: f"org/{token}"}))
    assert token not in str(caught.value)


def test_the_token_in_use_is_refused_even_escaped(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my_odd<token>_1")
    facts = SpaceFacts("org/x", "t", "it is my_odd<token>_1, see")
    with pytest.raises(ValueError, match="looks like an access token") as caught:
        render_space_card(facts)
    assert "my_odd" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "another-one-entirely")
    assert "my\\_odd&lt;token&gt;\\_1" in render_space_card(facts)


def test_a_missing_fact_is_an_error_and_not_an_empty_place():
    import jinja2

    from vlm2rec_hf.hub_cards.card import _environment

    template = _environment().from_string("{{ facts.nothing }}")
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        template.render(facts=SpaceFacts("org/x", "t", "d"))
    with pytest.raises(ValueError, match="`value` is None"):
        _environment().from_string("{{ facts.revision }}").render(facts=SpaceFacts("org/x", "t", "d"))
