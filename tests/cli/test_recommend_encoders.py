"""`vlm2rec recommend` with models that have no catalogue of their own: embedders and PixRec."""

import pytest
import torch

from vlm2rec_hf import PreparedCatalogue, RecDataset, make_demo_shop, recommender
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.described_items import DescribedItems
from vlm2rec_hf.evaluation import evaluate_embedder, evaluate_pixrec


@pytest.fixture(scope="module")
def dataset():
    return make_demo_shop(60, n_users=40, missing_images=0.3).dataset()


@pytest.fixture(scope="module")
def shop(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend") / "shop"
    dataset.save(folder)
    return folder


@pytest.fixture
def embedder(tiny, tmp_path):
    model, processor = tiny("qwen2_vl", max_history=100)
    model.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder", model, processor


def asked(capsys, *arguments):
    assert main(["recommend", *map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    return [(line.split()[1], float(line.split()[2])) for line in lines]


@pytest.mark.parametrize("view", ["both", "image"])
def test_an_embedder_recommends_what_its_evaluation_ranks_first(embedder, dataset, shop, capsys, view):
    folder, model, processor = embedder
    examples = dataset.examples("test", max_history=100)
    ranking = evaluate_embedder(model, PreparedCatalogue(dataset.catalogue_items(), processor), examples, k=5)
    history = ",".join(dataset.item_ids[examples.seen(3)])
    found = asked(capsys, "--model", folder, "--dataset", shop, "--history", history, "-k", 5, "--view", view)
    expected = ranking.rankings[view]
    assert [item for item, _ in found] == dataset.item_ids[expected.top_items[3]].tolist()
    assert [score for _, score in found] == pytest.approx(expected.top_scores[3].tolist(), abs=1e-3)


def test_vectors_from_a_file_give_the_same_and_those_of_other_weights_are_refused(embedder, shop, tmp_path, capsys):
    folder, model, processor = embedder
    file = tmp_path / "vectors.parquet"
    assert main(["embed", "--dataset", str(shop), "--model", str(folder), "--output", str(file)]) == 0
    capsys.readouterr()
    command = ["--model", folder, "--dataset", shop, "--user", "u000003", "-k", 4]
    assert asked(capsys, *command, "--vectors", file) == asked(capsys, *command)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    model.save_pretrained(folder)
    assert main(["recommend", *map(str, command), "--vectors", str(file)]) == 2
    assert "`--vectors`" in (error := capsys.readouterr().err) and "of version 'sha256:" in error


def test_pixrec_recommends_what_its_evaluation_ranks_first(tiny_pix, dataset, shop, tmp_path, capsys):
    model, processor = tiny_pix(max_history=100)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    examples = dataset.examples("test", max_history=100)
    items = DescribedItems(dataset, ["title", "description"])
    found = evaluate_pixrec(model, PreparedCatalogue(items, processor), examples, k=5)
    history = ",".join(dataset.item_ids[examples.seen(3)])
    asked_for = asked(capsys, "--model", tmp_path, "--dataset", shop, "--history", history, "-k", 5,
                      "--item_columns", "title,description")  # fmt: skip
    assert [item for item, _ in asked_for] == dataset.item_ids[found.ranking.top_items[3]].tolist()


def test_reasons_cannot_move_the_cursor(embedder, tmp_path, capsys):
    ids = ["a\u202e", "b\x1b[2J", "c", "d"]
    log = [{"user_id": f"u{i % 3}", "item_id": ids[i % 4], "timestamp": i} for i in range(9)]
    RecDataset.from_tables(log, [{"item_id": item, "title": f"mug {item[0]}"} for item in ids]).save(tmp_path / "shop")
    command = ["recommend", "--model", str(embedder[0]), "--dataset", str(tmp_path / "shop"), "--user", "u0"]
    assert main([*command, "--explain", "true", "--include_seen", "true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.isprintable() for line in lines)


def test_somebody_without_history_gets_what_is_popular(embedder, dataset, shop, capsys):
    counts = dataset.sequences().train_counts()
    found = asked(capsys, "--model", embedder[0], "--dataset", shop, "--history", "", "-k", 3)
    assert [count for _, count in found] == sorted(counts.tolist(), reverse=True)[:3]


def test_refusals(embedder, dataset, shop, capsys):
    assert main(["recommend", "--model", str(embedder[0]), "--history", "p000001"]) == 2
    assert "`--dataset` is required: the vlm2rec model" in capsys.readouterr().err
    command = ["recommend", "--model", str(embedder[0]), "--dataset", str(shop), "--history"]
    assert main([*command, "p000001", "--view", "sound"]) == 2
    assert "'sound'" in capsys.readouterr().err
    bare = next(item for i, item in enumerate(dataset.item_ids) if dataset.item(i)["image"] is None)
    assert main([*command, bare, "--view", "image"]) == 2
    assert "no item has a text or an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--history", "nope"], "'nope'"), (["--user", "nobody"], "`--user` 'nobody'"),
     (["--history", "p000001", "--candidates", "p000002,nope"], "`--candidates` names 1 items"),
     (["--history", "p000001", "--on_unknown", "ignore"], "`--on_unknown` must be"),
     (["--history", "a", "-k", "0"], "-k")],
)  # fmt: skip
def test_nothing_is_encoded_for_a_question_that_cannot_be_answered(
    embedder, shop, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(type(embedder[1]), "encode_items", lambda *a, **k: pytest.fail("encoded"))
    assert main(["recommend", "--model", str(embedder[0]), "--dataset", str(shop), *options]) == 2
    assert message in capsys.readouterr().err


def test_an_encoder_encodes_once_for_many_questions(embedder, dataset, monkeypatch):
    """From Python, too: the first sound question encodes the items, later ones use them."""
    calls, plain = [], type(embedder[1]).encode_items
    monkeypatch.setattr(
        type(embedder[1]), "encode_items", lambda self, *a, **k: (calls.append(1), plain(self, *a, **k))[1]
    )
    ready = recommender(embedder[1], dataset, processor=embedder[2])
    with pytest.raises(ValueError, match="'nope'"):
        ready.recommend([["nope"]])
    assert calls == []
    assert ready.recommend([["p000001"]], k=3) == ready.recommend([["p000001"]], k=3)
    assert calls == [1]
