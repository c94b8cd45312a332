"""Encoding descriptions: by a real SentenceTransformer built from config, and by the encoder without pretraining."""

import numpy as np
import pytest
import torch

from vlm2rec_hf import RecDataset
from vlm2rec_hf.descriptions import DescriptionColumns, EncodedItems, LSATextEncoder, encode_descriptions
from vlm2rec_hf.descriptions.encoding import encode_texts
from vlm2rec_hf.descriptions.text_encoders import load_text_encoder

TITLES = ["red tent for two", "blue mug", "red mug with a lid", "small blue tent", "green lamp", "blue lamp"]
WORDS = sorted({word for text in TITLES for word in text.split()} | {"a", "cosy", "http", "jpg", "png"})


@pytest.fixture(scope="module")
def dataset():
    items = [
        {
            "item_id": f"i{n}", "title": title, "description_text": f"cosy {title}",
            "description_image": "http://x.y/a.jpg" if n == 0 else None if n == 1 else title.split()[0],
            "description_both": " " if n == 2 else f"{title} {title}",
        }
        for n, title in enumerate(TITLES)
    ]  # fmt: skip
    rows = [{"user_id": f"u{u}", "item_id": f"i{(u + p) % 6}", "position": p} for u in range(6) for p in range(4)]
    return RecDataset.from_tables(rows, items, name="lamps").leave_one_out()


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A tiny BERT with mean pooling, from config alone."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    words = Transformer(str(folder))
    return SentenceTransformer(modules=[words, Pooling(12)], device="cpu")


def test_a_sentence_transformer_encodes_descriptions_and_tokens(dataset, transformer):
    result = encode_descriptions(dataset, transformer, model="org/bert", revision="c" * 40, batch_size=2)
    assert result.item_ids == list(dataset.item_ids) and result.coarse.shape == (6, 3, 12)
    assert result.coarse.dtype == result.fine.dtype == torch.float16
    assert result.coarse_present.tolist() == [[True, n != 1, n != 2] for n in range(6)]
    assert (result.coarse[~result.coarse_present] == 0).all()
    for n, title in enumerate(TITLES):
        expected = torch.from_numpy(transformer.encode([f"cosy {title}"])[0])
        assert torch.allclose(result.coarse[n, 0].float(), expected, atol=2e-3)
        states = transformer.encode([title], output_value="token_embeddings", convert_to_numpy=False)[0]
        assert int(result.fine_present[n].sum()) == len(states) == len(title.split()) + 2
        assert torch.allclose(result.fine[n, : len(states)].float(), states.cpu(), atol=2e-3)
        assert (result.fine[n, len(states) :] == 0).all()
    assert result.facts["model"] == "org/bert" and result.facts["dataset_fingerprint"] == dataset.fingerprint


def test_filling_on_the_left_is_no_token(dataset, transformer, monkeypatch):
    right = encode_descriptions(dataset, transformer)
    monkeypatch.setattr(transformer.tokenizer, "padding_side", "left")
    left = encode_descriptions(dataset, transformer)
    assert torch.equal(left.fine_present, right.fine_present) and torch.allclose(left.fine, right.fine, atol=2e-3)


def test_texts_are_cut_and_long_ones_do_not_widen(dataset, transformer):
    result = encode_descriptions(dataset, transformer, max_fine_tokens=3)
    assert result.fine.shape == (6, 3, 12) and result.fine_present.all()
    whole = encode_descriptions(dataset, transformer)
    assert whole.fine.shape[1] == 7 and torch.equal(whole.fine[:, :3], result.fine)  # five words and both ends


def test_texts_are_encoded_in_order_and_blanks_are_zero(transformer, monkeypatch):
    texts = ["blue mug", None, "red tent", "blue mug", "  "]
    passed, encode = [], transformer.encode_document
    monkeypatch.setattr(transformer, "encode_document", lambda rows, **o: passed.extend(rows) or encode(rows, **o))
    result = encode_texts(texts, transformer, batch_size=1)
    assert result.shape == (5, 12) and result.dtype == np.float32 and len(passed) == 2
    for row in (0, 2, 3):
        assert np.allclose(result[row], transformer.encode([texts[row]])[0], atol=1e-6)
    assert not result[[1, 4]].any() and result[0].any()
    with pytest.raises(ValueError, match="not a single text"):
        encode_texts([None, ""], transformer)


def test_progress_is_drawn_to_its_end_where_asked(dataset, transformer, capsys):
    encode_descriptions(dataset, transformer)
    assert "Texts" not in capsys.readouterr().err
    encode_descriptions(dataset, transformer, show_progress=True)
    assert "Texts: 100%" in capsys.readouterr().err


def test_the_file_comes_back_as_it_was(dataset, transformer, tmp_path):
    result = encode_descriptions(dataset, transformer, model="org/bert", revision="c" * 40)
    result.save(tmp_path / "new" / "items.safetensors")
    again = EncodedItems.load(tmp_path / "new" / "items.safetensors")
    assert again.fingerprint == result.fingerprint and again.facts == result.facts
    for name in ("coarse", "coarse_present", "fine", "fine_present"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    assert again.for_dataset(dataset) is again
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["items.safetensors"]
    with pytest.raises(ValueError, match="exists"):
        result.save(tmp_path / "new" / "items.safetensors")
    other = encode_descriptions(dataset, transformer, model="org/bert", revision="d" * 40)
    assert other.fingerprint != result.fingerprint


def test_rows_follow_the_dataset(dataset, transformer):
    result = encode_descriptions(dataset, transformer)
    order = [3, 1, 5, 0, 4, 2]
    parts = {name: getattr(result, name)[order] for name in ("coarse", "coarse_present", "fine", "fine_present")}
    shuffled = EncodedItems([result.item_ids[n] for n in order], **parts, facts=result.facts)
    again = shuffled.for_dataset(dataset)
    assert again.item_ids == result.item_ids and torch.equal(again.fine, result.fine)
    assert again.fingerprint == shuffled.fingerprint
    few = EncodedItems(result.item_ids[:4], **{name: getattr(result, name)[:4] for name in parts})
    with pytest.raises(ValueError, match="lack 2 of the dataset's 6 items, such as 'i4'"):
        few.for_dataset(dataset)


def test_bad_files_and_columns_are_named(dataset, transformer, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        EncodedItems.load(tmp_path / "absent")
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="no file of encoded descriptions"):
        EncodedItems.load(tmp_path / "text")
    with pytest.raises(ValueError, match="`columns`.*'plot'.*vlm2rec describe"):
        encode_descriptions(dataset, transformer, columns=DescriptionColumns(text="plot"))
    with pytest.raises(ValueError, match="at least one description column"):
        encode_descriptions(dataset, transformer, columns=DescriptionColumns("", "", ""))
    with pytest.raises(ValueError, match="`max_fine_tokens`"):
        encode_descriptions(dataset, transformer, max_fine_tokens=0)


def test_a_kind_may_be_left_out(dataset, transformer):
    columns = DescriptionColumns(text="title", image="", both="description_both")
    result = encode_descriptions(dataset, transformer, columns=columns)
    assert result.coarse_present.sum(dim=0).tolist() == [6, 0, 5]


def test_latent_semantic_analysis_is_tf_idf_in_few_dimensions():
    texts = [*TITLES, "green tent", "red lamp with a lid"]
    encoder = LSATextEncoder(texts, dim=4)
    vectors = encoder.encode(texts)
    assert vectors.shape == (8, 4) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    from sklearn.feature_extraction.text import TfidfVectorizer

    weights = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5)
    matrix = weights.fit_transform(sorted(set(texts))).toarray()
    _, _, axes = np.linalg.svd(matrix, full_matrices=False)
    plain = weights.transform(texts).toarray() @ axes[:4].T
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.allclose(vectors @ vectors.T, plain @ plain.T, atol=1e-3)  # equal up to a rotation
    tokens = encoder.encode(["green mug of nobody", "???"], output_value="token_embeddings")
    assert [len(result) for result in tokens] == [2, 0]
    place = weights.vocabulary_["mug"]
    state = axes[:4].T[place] / np.linalg.norm(axes[:4].T[place])
    assert np.allclose(tokens[0][1] @ vectors.T, state @ plain.T, atol=1e-3)
    assert (encoder.encode(["nobody knows"]) == 0).all()
    assert encoder.version == LSATextEncoder(list(reversed(texts)), dim=4).version
    assert encoder.version != LSATextEncoder(texts, dim=3).version


def test_latent_semantic_analysis_encodes_a_dataset(dataset):
    columns = DescriptionColumns("title", "title", "title", "title")
    encoder = LSATextEncoder(TITLES, dim=8)
    result = encode_descriptions(dataset, encoder, model="lsa", revision=encoder.version, columns=columns)
    assert result.coarse.shape == (6, 3, 8) and torch.isfinite(result.coarse).all()
    assert (result.coarse[:, :, 5:] == 0).all()  # there are fewer words than dimensions
    for options, message in [({"dim": 1}, "`dim`"), ({"texts": ["a b", "c d"]}, "`texts`")]:
        with pytest.raises(ValueError, match=message):
            LSATextEncoder(**{"texts": TITLES, **options})


def test_only_a_hub_id_has_revisions(tmp_path):
    for name in ("lsa", str(tmp_path)):
        with pytest.raises(ValueError, match=f"`revision` 'v1' goes with a Hub id, and `text_encoder` is '{name}'"):
            load_text_encoder(name, TITLES, revision="v1")
