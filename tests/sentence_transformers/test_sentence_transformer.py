"""`SentenceTransformer(folder)` gives the vectors of the embedder, in every form an item and a history may take."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from vlm2rec_hf.sentence_transformers.model_files import as_documents, as_queries, write_sentence_transformer_files

from ..conftest import FAMILIES, make_image, needs_image_processor


def saved(tiny, folder, family="qwen2_vl", fusion="external", st_options=None, **options):
    needs_image_processor(family)
    model, processor = tiny(family, fusion, **options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config, **(st_options or {}))
    return model, processor


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    """Model, processor and SentenceTransformer of one saved folder."""
    folder = tmp_path_factory.mktemp("embedder")
    return *saved(tiny, folder), SentenceTransformer(str(folder), device="cpu")


def difference(actual, expected):
    actual = torch.as_tensor(actual)
    assert actual.shape == expected.shape
    return (actual - expected).abs().max().item()


@pytest.fixture(scope="module")
def histories(items):
    return [items, items[:2], [items[0]], [items[2]], [items[4], items[1], items[5]]]


@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_vectors_as_the_embedder(tiny, items, histories, tmp_path, family, fusion):
    model, processor = saved(tiny, tmp_path, family, fusion)
    st = SentenceTransformer(str(tmp_path), device="cpu")
    expected = model.encode_items(items, processor).both
    assert expected.std(0).max() > 0.01  # otherwise everything below would agree
    for encode in (st.encode, st.encode_document):
        assert difference(encode(items), expected) < 1e-5
        assert difference(encode(items, batch_size=2), expected) < 1e-5
        assert difference(encode(as_documents(items)), expected) < 1e-5
    users = model.encode_histories(histories, processor).both
    assert (users[0] - expected[0]).abs().max() > 0.01
    for encode in (st.encode, st.encode_query):
        assert difference(encode(as_queries(histories)), users) < 1e-5


@pytest.mark.parametrize("kind", ["str", "text", "image", "picture", "both", "turned"])
def test_each_form_alone(loaded, kind):
    model, processor, st = loaded
    image = make_image(7)
    form = {
        "str": "red tent",
        "text": {"text": "red tent"},
        "image": {"image": image},
        "picture": image,
        "both": {"text": "red tent", "image": image},
        "turned": {"image": image, "text": "red tent"},
    }[kind]
    expected = model.encode_items([form, form], processor).both
    assert difference(st.encode([form, form]), expected) < 1e-5
    assert difference(st.encode(form), expected[0]) < 1e-5
    assert difference(st.encode_query([form]), model.encode_histories([[form]], processor).both) < 1e-5


def test_text_and_image_add_up(loaded):
    _, _, st = loaded
    image = make_image(5)
    both, text, alone = st.encode([{"text": "mug", "image": image}, "mug", image])
    assert abs(both - text - alone).max() < 1e-6
    assert abs(torch.as_tensor(text).norm() - 1) < 1e-5 and abs(torch.as_tensor(both).norm() - 1) > 0.05


def test_a_history_is_a_chat_of_items(loaded, items):
    model, processor, st = loaded
    chat = [
        {"role": "user", "content": "red tent"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "image": make_image(2)}]},
    ]
    history = ["red tent", {"text": "x", "image": make_image(2)}]
    expected = model.encode_histories([history], processor).both[0]
    assert difference(st.encode_query(chat), expected) < 1e-5
    assert difference(st.encode_query([chat])[0], expected) < 1e-5
    # A single message of role `user` is an item, unless it is a query.
    single = model.encode_items(["red tent"], processor).both
    assert difference(st.encode([chat[:1]]), single) < 1e-5
    user = model.encode_histories([["red tent"]], processor).both
    assert difference(st.encode_query([chat[:1]]), user) < 1e-5
    assert (single - user).abs().max() > 0.01


def test_items_and_histories_may_share_a_batch(loaded, items):
    model, processor, st = loaded
    mixed = st.encode([*as_queries([items[:3], ["red tent"]]), {"text": "red tent"}, make_image(3)])
    assert difference(mixed[:2], model.encode_histories([items[:3], ["red tent"]], processor).both) < 1e-5
    assert difference(mixed[2:], model.encode_items(["red tent", make_image(3)], processor).both) < 1e-5


def test_long_histories_keep_the_newest(tiny, items, tmp_path):
    model, processor = saved(tiny, tmp_path, max_history=2)
    st = SentenceTransformer(str(tmp_path), device="cpu")
    result = st.encode_query(as_queries([items]))
    assert difference(result, model.encode_histories([items[-2:]], processor).both) < 1e-5
    assert difference(result, torch.as_tensor(st.encode_query(as_queries([items], max_history=2)))) < 1e-6
    assert len(as_queries([items], max_history=2)[0]) == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user_instruction": "", "item_instruction": ""},
        {"user_instruction": "Same:", "item_instruction": "Same:"},
        {"user_instruction": "", "item_instruction": "Item:"},
        {"user_instruction": "User:", "item_instruction": ""},
        {"user_instruction": "<|im_start|>user\n"},
    ],
)
def test_prompts_are_the_instructions_and_tell_users_from_items(tiny, items, histories, tmp_path, options):
    model, processor = saved(tiny, tmp_path, **options)
    st = SentenceTransformer(str(tmp_path), device="cpu")
    assert st.prompts == processor.prompts and st.prompts["document"] == processor.item_instruction
    if not options:
        assert st.prompts["query"] == processor.user_instruction
    expected = model.encode_items(items, processor).both
    assert difference(st.encode(items), expected) < 1e-5
    assert difference(st.encode_document(items), expected) < 1e-5
    users = model.encode_histories(histories, processor).both
    assert difference(st.encode_query(as_queries(histories)), users) < 1e-5
    assert difference(st.encode_query(["red tent"]), model.encode_histories([["red tent"]], processor).both) < 1e-5


def test_another_prompt_takes_the_place_of_the_instruction(tiny, loaded, items):
    model, _, st = loaded
    _, other = tiny(item_instruction="Find gifts: ", user_instruction="Find gifts: ")
    assert difference(st.encode(items, prompt="Find gifts: "), model.encode_items(items, other).both) < 1e-5
    result = st.encode_query(as_queries([items, items[:1]]), prompt="Find gifts: ")
    assert difference(result, model.encode_histories([items, items[:1]], other).both) < 1e-5


def test_similarity_is_the_cosine_of_sums(loaded, items):
    model, processor, st = loaded
    assert st.similarity_fn_name == "cosine" and st.get_embedding_dimension() == model.config.hidden_size
    vectors = st.encode(items, convert_to_tensor=True)
    unit = torch.nn.functional.normalize(model.encode_items(items, processor).both, dim=1)
    assert difference(st.similarity(vectors, vectors).cpu(), unit @ unit.T) < 1e-5
    assert difference(torch.as_tensor(st.encode(items, normalize_embeddings=True)), unit) < 1e-5


def test_another_number_type(loaded, items, tmp_path):
    model, processor, _ = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_sentence_transformer_files(tmp_path, processor, model.config)
    st = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert st[0].auto_model.dtype == torch.bfloat16
    result = torch.as_tensor(st.encode(items)).float()
    cosines = torch.cosine_similarity(result, model.encode_items(items, processor).both)
    assert cosines.min() > 0.99


def test_truncation_and_another_similarity_are_saved(tiny, items, tmp_path):
    model, processor = saved(tiny, tmp_path, st_options={"truncate_dim": 8, "similarity": "dot"})
    st = SentenceTransformer(str(tmp_path), device="cpu")
    expected = model.encode_items(items, processor).both
    assert st.truncate_dim == st.get_embedding_dimension() == 8 and st.similarity_fn_name == "dot"
    assert difference(st.encode(items), expected[:, :8]) < 1e-5
    assert difference(st.encode(items, truncate_dim=16), expected[:, :16]) < 1e-5
    whole = SentenceTransformer(str(tmp_path), device="cpu", truncate_dim=32)
    assert difference(whole.encode(items), expected) < 1e-5


def test_quantisation(loaded, items):
    model, processor, st = loaded
    expected = model.encode_items(items, processor).both
    binary = st.encode(items, precision="ubinary")
    assert binary.shape == (len(items), 4) and binary.dtype.name == "uint8"
    bits = torch.as_tensor(binary)[:, :, None].bitwise_right_shift(torch.arange(7, -1, -1)) & 1
    assert torch.equal(bits.reshape(len(items), -1).bool(), expected > 0)
    small = torch.as_tensor(st.encode(items, precision="int8"))
    assert small.dtype == torch.int8
    low, high = expected.min(0).values, expected.max(0).values
    assert ((small + 128.0) / 255 * (high - low) + low - expected).abs().max() < 1.1 * (high - low).max() / 255


def test_information_retrieval_evaluator_agrees_with_a_plain_ranking(loaded, items):
    model, processor, st = loaded
    catalogue = [*items, "green lamp", {"text": "hat", "image": make_image(9)}]
    histories = [[catalogue[i], catalogue[(i + 3) % 8]] for i in range(8)]
    evaluator = InformationRetrievalEvaluator(
        queries={f"u{i}": query for i, query in enumerate(as_queries(histories))},
        corpus={f"i{i}": document for i, document in enumerate(as_documents(catalogue))},
        relevant_docs={f"u{i}": {f"i{(i + 1) % 8}"} for i in range(8)},
        accuracy_at_k=[3], ndcg_at_k=[3], mrr_at_k=[8], map_at_k=[8], precision_recall_at_k=[3], name="shop",
        write_csv=False,
    )  # fmt: skip
    result = evaluator(st)
    users = torch.nn.functional.normalize(model.encode_histories(histories, processor).both, dim=1)
    vectors = torch.nn.functional.normalize(model.encode_items(catalogue, processor).both, dim=1)
    order = (users @ vectors.T).argsort(dim=1, descending=True).tolist()
    ranks = [row.index((i + 1) % 8) + 1 for i, row in enumerate(order)]
    assert len(set(ranks)) > 2
    assert result["shop_cosine_mrr@8"] == pytest.approx(sum(1 / rank for rank in ranks) / 8)
    assert result["shop_cosine_accuracy@3"] == pytest.approx(sum(rank <= 3 for rank in ranks) / 8)


def test_views_and_presence_are_reachable(loaded, items):
    model, processor, st = loaded
    features = st.preprocess(as_documents(items))
    with torch.no_grad():
        after = st(dict(features))
        assert difference(after["sentence_embedding"], model.encode_items(items, processor).both) < 1e-5
        assert after["has_text"].tolist() == [True, True, False, True, True, False]
        assert after["has_image"].tolist() == [True, False, True, True, False, True]
        output = st[0].auto_model(**{name: value for name, value in features.items() if name != "modality"})
    expected = model.encode_items(items, processor)
    for view in ("text", "image"):
        assert difference(output[f"{view}_embeddings"], expected.view(view)) < 1e-5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([["red tent", "blue mug"]], "pair"),  # a list of two is a pair for sentence-transformers
        ([[make_image(0), "blue mug"]], "pair"),
        ([[{"role": "query", "content": "a"}]], "`role` of messages must be"),
        ([[{"role": "history", "content": "a"}, {"role": "user", "content": "b"}]], "`role` of messages must be"),
        ([[{"role": "assistant", "content": "a"}]], "`role` of messages must be"),
        ([[{"role": "system", "content": "a"}]], "an instruction and no item"),
        ([[{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]], "at most one text and one image"),
        ([[{"role": "user", "content": [{"type": "video", "video": "a"}]}]], "at most one text and one image"),
        ([[{"role": "user", "content": [{"type": "image", "url": "a.png"}]}]], "`content` of a message holds a part"),
        ([[{"role": "user", "content": 3}]], "`content` of a message must be a str or a list"),
        ([{"text": "a", "image": "picture.png"}], "`image` of a message must be a PIL.Image.Image"),
        ([torch.zeros(3, 8, 8)], "`image` of a message must be a PIL.Image.Image"),
        (["red tent", " "], "text or an image"),
    ],
)
def test_what_is_neither_item_nor_history_is_refused(loaded, inputs, message):
    _, _, st = loaded
    with pytest.raises(ValueError, match=message):
        st.encode(inputs)


def test_a_history_is_no_document(loaded, items):
    _, _, st = loaded
    with pytest.raises(ValueError, match="encode histories with `encode_query`"):
        st.encode_document(as_queries([items[:2]]))


def test_options_that_would_cut_rows_are_refused(loaded):
    _, _, st = loaded
    for wanted in ({"text": {"max_length": 4}}, {"image": {"size": 8}}):
        with pytest.raises(ValueError, match="`processing_kwargs` ask for"):
            st.encode(["red tent"], processing_kwargs=wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: as_documents("red tent"), TypeError, "`items` must be a list"),
        (lambda: as_documents([3]), TypeError, "`items` holds a int"),
        (lambda: as_documents([{"image": "a.png"}]), TypeError, "`image` of an item"),
        (lambda: as_documents([""]), ValueError, "needs a text or an image"),
        (lambda: as_queries([[{"text": "a", "image_features": [1.0]}]]), ValueError, "`image_features`, which"),
        (lambda: as_queries(["red tent"]), TypeError, r"`histories\[i\]` must be a list"),
        (lambda: as_queries([[]]), ValueError, "`histories` must not hold an empty"),
        (lambda: as_queries([["a"]], max_history=0), ValueError, "`max_history` must be at least 1"),
    ],
)
def test_helpers_refuse_what_they_cannot_type(call, error, message):
    with pytest.raises(error, match=message):
        call()
