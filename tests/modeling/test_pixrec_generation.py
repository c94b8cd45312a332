"""Generated texts: beam search against a search of everything, and ranking by lexical match."""

import numpy as np
import pytest
import torch

from tests.conftest import make_image
from vlm2rec_hf.evaluation.generation import generate_next_items


def log_probability(model, processor, history, ids):
    """Of a text and its end, by one plain pass."""
    end = processor.tokenizer.convert_tokens_to_ids(processor.end_token)
    batch = processor.collate_sequences([history], begun=[[*ids, end]])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -len(ids) - 1 :] = torch.tensor([*ids, end])
    batch.pop("history_mask")
    return -float(model(**batch, labels=labels).token_nll.double().sum().detach())


def next_scores(model, processor, history, begun):
    """Log-probabilities of the next token after each of the texts, all of one length: `(texts, vocabulary)`."""
    batch = processor.collate_sequences([history] * len(begun), begun=begun)
    batch.pop("history_mask")
    with torch.no_grad():
        states = model.hidden_states(**batch)
    assert bool(batch["attention_mask"].all())
    return torch.log_softmax((states[:, -1] @ model.head_weight.T).double(), dim=-1)


def test_with_beams_for_all_it_finds_what_a_search_of_everything_finds(tiny_pix):
    model, processor = tiny_pix()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)  # opinions worth ranking
    history = processor.prepare_items(["red tent", {"text": "blue mug", "image": make_image(1)}])
    end = processor.tokenizer.convert_tokens_to_ids(processor.end_token)
    special = set(processor.tokenizer.all_special_ids)
    words = [token for token in range(len(model.head_weight)) if token not in special]
    first = next_scores(model, processor, history, [[]])[0]
    second = next_scores(model, processor, history, [[token] for token in words])
    everything = [float(first[end])]
    for row, token in enumerate(words):
        everything += ((first[token] + second[row, [*words, end]]) / 2).tolist()
    result = generate_next_items(model, [history], processor, beams=len(words) + 1, max_new_tokens=2)[0]
    expected = sorted(everything, reverse=True)[:20]
    assert [score for _, score in result[:20]] == pytest.approx(expected, abs=1e-5)
    assert expected[0] - expected[-1] > 0.1


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_an_image_is_never_written(tiny_pix, family):
    model, processor = tiny_pix(family)
    pad = model.config.vlm_config.image_token_id
    with torch.no_grad():
        weight = model.get_input_embeddings().weight.clone()
        weight[pad] = 10 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
        model.lm_head = torch.nn.Linear(*weight.shape[::-1], bias=False)
        model.lm_head.weight.copy_(weight)
    for words in (["red tent"], ["blue mug"], ["Alpina lamp 3"]):
        for text, _ in generate_next_items(model, [processor.prepare_items(words)], processor, max_new_tokens=4)[0]:
            assert not set(processor.tokenizer(text)["input_ids"]) & set(processor.tokenizer.all_special_ids)


def test_rows_of_the_head_that_are_no_token_are_never_written(tiny_pix):
    """Backbones fill their vocabulary up; what stands there decodes to nothing and would only take beams away."""
    model, processor = tiny_pix()
    history = processor.prepare_items(["red tent"])
    batch = processor.collate_sequences([history], begun=[[]])
    batch.pop("history_mask")
    with torch.no_grad():
        state = model.hidden_states(**batch)[0, -1]
        embedding = model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(torch.cat([embedding.weight, 0 * state[None], 5 * state[None]]))
    assert next_scores(model, processor, history, [[]])[0].argmax() == len(processor.tokenizer) + 1
    # That row has all the probability; whatever is written instead is unlikely, and scored as such.
    result = generate_next_items(model, [history], processor, beams=3, max_new_tokens=3)[0]
    assert len(result) == 3 and all(score < -1 for _, score in result)


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_scores_are_the_models_own_and_the_search_is_deterministic(tiny_pix, family):
    model, processor = tiny_pix(family)
    histories = [
        processor.prepare_items(["red tent"]),
        processor.prepare_items([{"text": "blue mug", "image": make_image(1)}, "red tent"]),
    ]
    together = generate_next_items(model, histories, processor, beams=3, max_new_tokens=4)
    assert together == generate_next_items(model, histories, processor, beams=3, max_new_tokens=4)
    apart = [generate_next_items(model, [one], processor, beams=3, max_new_tokens=4)[0] for one in histories]
    for one, other in zip(together, apart, strict=True):
        assert [text for text, _ in one] == [text for text, _ in other] and len(one) == 3
        assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=1e-5)
    assert not model.training
    with pytest.raises(ValueError, match="`beams`"):
        generate_next_items(model, histories, processor, beams=0)


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_a_model_that_learnt_a_text_writes_it(tiny_pix, family):
    model, processor = tiny_pix(family)
    history, target = processor.prepare_items(["red tent"]), processor.prepare_items(["Alpina lamp 3"])
    batch = processor.collate_sequences([history], target)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(**batch).token_nll.mean().backward()
        optimizer.step()
    (text, score), *_ = generate_next_items(model, [history], processor, beams=2, max_new_tokens=12)[0]
    assert text == "Alpina lamp 3" and score > -0.2
    ids = target[0].text
    assert score * (len(ids) + 1) == pytest.approx(log_probability(model, processor, history, ids), abs=1e-3)


class TestLexicalScorer:
    @pytest.fixture(autouse=True)
    def needs_bm25s(self):
        pytest.importorskip("bm25s", reason="the optional library bm25s (extra `pixrec`) is not installed")

    def test_the_item_whose_words_were_written_comes_first(self):
        from vlm2rec_hf.evaluation.generated import LexicalScorer

        texts = ["red tent", None, "blue mug", "red mug with a lid"]
        written = [[("RED tent!", -0.1)], [("mug", -0.5), ("blue", -0.5)], [("nothing known", -1.0)], [("", 0.0)]]
        scores = LexicalScorer(texts, written).scores(slice(0, 4))
        assert scores.shape == (4, 4) and scores[0].argmax() == 0 and scores[1].argmax() == 2
        assert not scores[2:].any() and not scores[:, 1].any()

    def test_likelier_beams_weigh_more(self):
        from vlm2rec_hf.evaluation.generated import LexicalScorer

        texts = ["red tent", "blue mug"]
        first, second = LexicalScorer(
            texts, [[("tent", -0.1), ("mug", -3.0)], [("tent", -3.0), ("mug", -0.1)]]
        ).scores(slice(0, 2))
        assert first.argmax() == 0 and second.argmax() == 1
        assert first[0] == pytest.approx(second[1])

    def test_texts_without_words_are_refused(self):
        from vlm2rec_hf.evaluation.generated import LexicalScorer

        with pytest.raises(ValueError, match="`texts`"):
            LexicalScorer([None, " "], [])

    def test_ranking_a_dataset(self, tiny_pix, demo_dataset):
        from vlm2rec_hf import PreparedCatalogue
        from vlm2rec_hf.evaluation.generated import rank_generated

        model, processor = tiny_pix()
        catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(model)
        examples = demo_dataset.examples("test", max_history=3).take(np.arange(4))
        result = rank_generated(
            model, catalogue, demo_dataset.item_texts(), examples, beams=2, max_new_tokens=3, batch_size=3
        )
        assert len(result.ranking) == len(result.beams) == 4
        assert ((result.ranking.ranks >= 1) & (result.ranking.ranks <= result.ranking.n_candidates)).all()


def test_without_the_library_the_option_says_what_to_install(monkeypatch):
    import importlib.util

    from vlm2rec_hf.cli.arguments import PixRecRankingArguments

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bm25s" else find(name))
    with pytest.raises(ValueError, match=r"vlm2rec-hf\[pixrec\]"):
        PixRecRankingArguments(generate_users=5).generation()
