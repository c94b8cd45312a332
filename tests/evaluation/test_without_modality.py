"""What an embedder is worth without a modality: as if all of it were encoded anew."""

import numpy as np
import pytest
from PIL import Image

from vlm2rec_hf import PreparedCatalogue, ScoreOptions, evaluate
from vlm2rec_hf.evaluation.embedder import evaluate_embedder
from vlm2rec_hf.evaluation.evaluating import users_of
from vlm2rec_hf.evaluation.without_modality import ItemsWithout
from vlm2rec_hf.hub_cards.run_facts import EvaluationFacts

SIDE_BY_SIDE = ScoreOptions(popularity_prior=0.5, cross_terms=False, temperature=0.05)


@pytest.mark.parametrize(
    ("fusion", "options"), [("external", SIDE_BY_SIDE), ("internal", ScoreOptions(popularity_prior=0.5)),
                            ("external", None)],
)  # fmt: skip
def test_rows_without_a_modality_are_those_of_items_without_it(tiny, demo_dataset, fusion, options):
    model, processor = tiny("qwen2_vl", fusion)
    processor.max_history = 3
    report = evaluate(
        model, demo_dataset, processor=processor, max_users=20, without=("text", "image"), score_options=options,
        report_name="m", exclude_seen=False,
    )  # fmt: skip
    views = ["both"] if options is None else ["both", "scored"]
    assert report.methods == ["m", "m without texts", "m without images"]
    examples = users_of(demo_dataset, "test", 3, 20)
    for modality, name in (("text", "m without texts"), ("image", "m without images")):
        catalogue = PreparedCatalogue(ItemsWithout(demo_dataset.catalogue_items(), modality), processor)
        anew = evaluate_embedder(model, catalogue, examples, exclude_seen=False, score_options=options)
        assert report.views(name) == views
        for view in views:
            np.testing.assert_array_equal(report.ranks(name, view), anew.rankings[view].ranks)
        assert (report.ranks(name, "both") != report.ranks("m", "both")).any()
    assert report.facts["without"]["m without texts"] == {"model": "m", "modality": "text"}
    assert EvaluationFacts.from_json(report.to_dict()).report_name == "m"  # a card speaks of the model itself


@pytest.mark.parametrize(("fusion", "template"), [("internal", "{text}"), ("external", "{number}. {text}")])
def test_plain_items_and_numbered_histories_are_encoded_anew(tiny, demo_dataset, fusion, template):
    model, processor = tiny("qwen2_vl", fusion)
    processor.max_history, processor.history_template = 3, template
    items = [f"item {i}" if i % 3 else {"text": None, "image": Image.new("RGB", (28, 28), (i, 9, 9))}
             for i in range(demo_dataset.n_items)]  # fmt: skip
    catalogue = PreparedCatalogue(items, processor, item_ids=demo_dataset.item_ids)
    report = evaluate(
        model, demo_dataset, processor=processor, catalogue=catalogue, max_users=20, without=("text", "image"),
        report_name="m",
    )  # fmt: skip
    texts = [item if isinstance(item, str) else {"text": None} for item in items]
    only = PreparedCatalogue(texts, processor, item_ids=demo_dataset.item_ids)
    anew = evaluate_embedder(model, only, users_of(demo_dataset, "test", 3, 20))
    np.testing.assert_array_equal(report.ranks("m without images", "both"), anew.rankings["both"].ranks)
    assert report.views("m without texts") == ["both"]


def test_what_is_no_modality_is_refused(tiny, demo_dataset):
    model, processor = tiny("qwen2_vl")
    for without in (("picture",), "text", ("text", "text")):
        with pytest.raises(ValueError, match="`without` must hold some of .*'image', 'text'"):
            evaluate(model, demo_dataset, processor=processor, without=without)
