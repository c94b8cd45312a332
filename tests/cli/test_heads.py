"""`vlm2rec train --method seqrec` and `vlm2rec recommend`, run in process on a small shop."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vlm2rec_hf import RecDataset, load_model, make_demo_shop
from vlm2rec_hf.catalogues.item_vectors import read_item_vectors
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.descriptions import LSATextEncoder
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.recommending.page import ShownItem, page
from vlm2rec_hf.recommending.recommender import user_history
from vlm2rec_hf.recommending.shown_items import table

TRAINING = ["--num_train_epochs", "2", "--per_device_train_batch_size", "16", "--hidden_size", "16", "--max_length"]
TRAINING += ["12", "--use_cpu", "true", "--disable_tqdm", "true", "--warmup_steps", "2"]


TRAIN = ["train", "--method", "seqrec"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shop"
    make_demo_shop(60, n_users=80).dataset().save(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(data):
    return RecDataset.load(data)


@pytest.fixture(scope="module")
def by_id(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head") / "by-id"
    assert main([*TRAIN, "--dataset", str(data), "--output_dir", str(folder), *TRAINING]) == 0
    return folder


def write_vectors(path, ids, *, seed=0, dim=8, metadata=None, **columns):
    generator = torch.Generator().manual_seed(seed)
    for view in ("both", "text", "image"):
        matrix = torch.randn(len(ids), dim, generator=generator).numpy()
        columns.setdefault(view, pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dim))
    table = pa.table({"item_id": pa.array(ids), **columns})
    facts = {"model": "org/embedder", "revision": "abc"} if metadata is None else metadata
    pq.write_table(table.replace_schema_metadata(facts), path)
    return path


def test_train_head_leaves_a_head_and_a_report(by_id, dataset):
    head = load_model(str(by_id))
    assert (head.config.encoder, head.config.item_representation) == ("sasrec", "id")
    assert head.catalogue.ids == dataset.item_ids.tolist() and head.catalogue.popularity.sum() > 0
    report = Report.load(by_id / "evaluation")
    assert report.methods == ["sasrec"] and report.views("sasrec") == ["both"]
    assert len(report) == 80 and report.facts["steps"] > 0
    assert "popularity" in report.floors


def test_the_report_holds_what_the_saved_head_ranks(by_id, dataset):
    from vlm2rec_hf.evaluation import rank_head

    ranking = rank_head(load_model(str(by_id)), dataset.examples("test", max_history=12))
    assert ranking.ranks.tolist() == Report.load(by_id / "evaluation").ranks("sasrec").tolist()


def test_vectors_make_a_content_head_that_remembers_its_embedder(data, dataset, tmp_path):
    ids = ["spare", *reversed(dataset.item_ids.tolist())]  # another order, and an item more
    vectors = write_vectors(tmp_path / "items.parquet", ids)
    command = [*TRAIN, "--dataset", str(data), "--vectors", str(vectors), "--encoder", "gru4rec", "--views"]
    command += ["text,image", "--output_dir", str(tmp_path / "head"), "--max_users", "20", "--report_name", "mine"]
    assert main([*command, *TRAINING]) == 0
    head = load_model(str(tmp_path / "head"))
    assert head.config.item_representation == "content+id" and head.config.encoder == "gru4rec"
    assert (head.config.embedder, head.config.embedder_revision) == ("org/embedder", "abc")
    stored = pq.read_table(vectors)["image"].to_pylist()
    for place in (0, 7, 59):
        item = dataset.item_ids[place]
        assert head.content_buffer("image")[place].tolist() == pytest.approx(stored[ids.index(item)])
    report = Report.load(tmp_path / "head" / "evaluation")
    assert len(report) == 20 and report.facts["embedder"] == "org/embedder" and report.methods == ["mine"]


def test_ids_start_from_vectors(data, dataset, tmp_path):
    from vlm2rec_hf import build_head

    ids = dataset.item_ids.tolist()
    vectors = read_item_vectors(write_vectors(tmp_path / "v.parquet", ids), ids, ("both",))
    started = build_head(dataset, vectors, init_ids=True, hidden_size=16, seed=3)
    fresh = build_head(dataset, hidden_size=16, seed=3)
    assert started.config.item_representation == "id" and started.config.embedder == "org/embedder"
    changed = started.item_embedding.weight != fresh.item_embedding.weight
    assert changed[:, :8].all() and not changed[:, 8:].any()  # eight dimensions came from the vectors


def test_an_embedder_is_run_on_the_spot(tiny, data, tmp_path):
    model, processor = tiny()
    model.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    command = [*TRAIN, "--dataset", str(data), "--embedder", str(tmp_path / "embedder"), "--output_dir"]
    command += [str(tmp_path / "head"), "--item_representation", "content", *TRAINING]
    assert main([*command, "--max_users", "5"]) == 0
    head = load_model(str(tmp_path / "head"))
    assert head.config.embedder == str(tmp_path / "embedder") and head.config.content_dims == {"both": 32}
    assert head.content_buffer("both").any(dim=1).all() and head.item_embedding is None


def test_a_frozen_text_encoder_is_run_on_the_spot(data, dataset, tmp_path):
    """LSA here; a SentenceTransformer takes the same way (tests/data/test_descriptions.py)."""
    command = [*TRAIN, "--dataset", str(data), "--text_encoder", "lsa", "--lsa_dim", "6", "--output_dir"]
    assert main([*command, str(tmp_path / "head"), *TRAINING, "--max_users", "5"]) == 0
    head = load_model(str(tmp_path / "head"))
    assert head.config.content_dims == {"text": 6} and head.config.item_representation == "content+id"
    encoder = LSATextEncoder(dataset.item_texts(), 6)
    assert (head.config.embedder, head.config.embedder_revision) == ("lsa", encoder.version)
    expected = torch.as_tensor(encoder.encode(dataset.item_texts()))
    assert torch.allclose(head.content_buffer("text"), expected.float(), atol=1e-6)


def rows_of(text):
    lines = text.strip().splitlines()
    assert lines[0].split() == ["#", "item", "score", "title"]
    return [re.split(r"\s{2,}", line.strip(), maxsplit=3) for line in lines[1:]]


def test_recommend_prints_what_the_head_says(by_id, data, dataset, capsys):
    history = dataset.item_ids[[3, 1, 4]].tolist()
    assert main(["recommend", "--model", str(by_id), "--history", ",".join(history), "-k", "4"]) == 0
    said = capsys.readouterr()
    (found,) = load_model(str(by_id)).recommend([history], 4)
    assert [row[1] for row in rows_of(said.out)] == found.item_ids
    assert [row[3] for row in rows_of(said.out)] == found.titles and None not in found.titles
    assert "after a history of 3 items" in said.err
    chosen = dataset.item_ids[[3, 9, 8]].tolist()
    command = ["recommend", "--model", str(by_id), "--history", ",".join(history), "--candidates", ",".join(chosen)]
    assert main(command) == 0
    assert {row[1] for row in rows_of(capsys.readouterr().out)} == set(chosen[1:])  # the first was seen
    assert main([*command, "--include_seen"]) == 0
    assert {row[1] for row in rows_of(capsys.readouterr().out)} == set(chosen)


def test_cold_users_and_unknown_items_are_told(by_id, capsys):
    assert main(["recommend", "--model", str(by_id), "--history", "", "-k", "3"]) == 0
    said = capsys.readouterr()
    counts = load_model(str(by_id)).catalogue.popularity.sort(descending=True).values[:3].tolist()
    assert [float(row[2]) for row in rows_of(said.out)] == counts and "most popular" in said.err
    assert main(["recommend", "--model", str(by_id), "--history", "nothing"]) == 2
    assert "`--history`" in capsys.readouterr().err
    assert main(["recommend", "--model", str(by_id), "--history", "nothing,p000003", "--on_unknown", "skip"]) == 0
    assert "1 item (1 unknown ids left out)" in capsys.readouterr().err


def test_the_page_shows_the_users_history_and_recommendations(by_id, data, dataset, tmp_path, capsys):
    target = tmp_path / "new" / "page.html"
    user = str(dataset.sequences().user_ids[5])
    command = ["recommend", "--model", str(by_id), "--dataset", str(data), "--user", user, "--html", str(target)]
    assert main([*command, "-k", "6"]) == 0
    text = target.read_text(encoding="utf-8")
    history = user_history(dataset, user)
    recommended = [row[1] for row in rows_of(capsys.readouterr().out)]
    assert not set(history) & set(recommended)
    for item in history + recommended:
        assert f"<small>{item}" in text
    with_image = [i for i in history + recommended if dataset.item(dataset.item_ids.tolist().index(i))["image"]]
    assert text.count('<img src="data:image/jpeg;base64,') == len(with_image) > 6
    assert "http://" not in text and "https://" not in text
    assert not list(target.parent.glob(".writing*"))
    assert main(command) == 2  # never overwrites
    assert "`--html`" in capsys.readouterr().err
    history = ",".join(dataset.item_ids.tolist() * 2)
    command = ["recommend", "--model", str(by_id), "--history", history, "--include_seen", "--html"]
    assert main([*command, str(tmp_path / "long.html")]) == 0
    text = (tmp_path / "long.html").read_text()
    assert "History, oldest first (60)" in text and "newest 60 of them" in text and "<img" not in text
    assert "no images" in capsys.readouterr().err


def test_titles_cannot_break_out_of_the_page_or_the_table():
    evil = '</b><script>alert("x")</script>\n\x1b[2J\u202e'
    text = page("a <b> & c", "note <i>", [ShownItem("<id>", evil)], [ShownItem('"', None, 1.5)])
    assert "<script" not in text and "&lt;script&gt;" in text and "<id>" not in text and "note &lt;i&gt;" in text
    assert "default-src 'none'" in text and "(no title)" in text and "1.5" in text
    shown = table([ShownItem("1", evil, 0.5), ShownItem("2", "x" * 100, -2.0)])
    assert "\x1b" not in shown and "\u202e" not in shown and len(shown.splitlines()) == 3
    assert shown.endswith("x" * 57 + "...")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([*TRAIN, "--output_dir", "x"], "--dataset"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--encoder", "mamba"], "`--encoder`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--item_representation", "content"], "--vectors"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--init_ids"], "--vectors"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--vectors", "a", "--embedder", "b"], "at most one"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--vectors", "absent.parquet"], "absent.parquet"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--vectors", "a", "--views", "sound"], "`--views`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--text_encoder", "lsa", "--vectors", "a"], "at most"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--text_encoder", "no/such"], "`--text_encoder`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--text_encoder", "lsa", "--views", "image"], "views"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--loss", "hinge"], "`--loss`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--ks", "ten"], "`--ks`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--max_users", "0"], "`--max_users`"),
        ([*TRAIN, "--dataset", "DATA", "--output_dir", "x", "--validation_users", "9999"], "`--validation_users`"),
        (["recommend", "--history", "1"], "`--model`"),
        (["recommend", "--model", "HEAD"], "exactly one"),
        (["recommend", "--model", "HEAD", "--user", "u"], "`--dataset`"),
        (["recommend", "--model", "HEAD", "--user", "nobody", "--dataset", "DATA"], "'nobody'"),
        (["recommend", "--model", "HEAD", "--history", "p000001", "-k", "0"], "`-k`"),
        (["recommend", "--model", "HEAD", "--history", "p000001", "--candidates", "what"], "`--candidates`"),
        (["recommend", "--model", "HEAD", "--history", "p000001", "--on_unknown", "guess"], "`--on_unknown`"),
        (["recommend", "--model", "DATA", "--history", "p000001"], "config.json"),
        (["recommend", "--model", "no/such-head", "--history", "p000001"], "no/such-head"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(command, message, by_id, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": str(data), "HEAD": str(by_id)}
    assert main([places.get(part, part) for part in command]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(list(tmp_path.iterdir())) == 0  # nothing is left behind


def test_bad_vector_files_are_refused(dataset, tmp_path):
    ids = dataset.item_ids.tolist()
    for name, path, views in (
        ("lack 1 of", write_vectors(tmp_path / "a.parquet", ids[1:]), ("both",)),
        ("twice", write_vectors(tmp_path / "b.parquet", [*ids, ids[0]]), ("both",)),
        ("lists of one length", write_vectors(tmp_path / "c.parquet", ids, both=pa.array([[1.0]] * 60)), ("both",)),
        ("no columns", write_vectors(tmp_path / "d.parquet", ids), ("both", "sound")),
    ):
        with pytest.raises(ValueError, match=f"`vectors`.*{name}"):
            read_item_vectors(path, ids, views)
    (tmp_path / "e.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="no parquet file"):
        read_item_vectors(tmp_path / "e.parquet", ids, ("both",))
    nameless = read_item_vectors(write_vectors(tmp_path / "f.parquet", ids, metadata={}), ids, ("text",))
    assert nameless.model is None and nameless.revision is None and nameless.views["text"].shape == (60, 8)


def test_a_model_of_another_kind_is_no_head(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert main(["recommend", "--model", str(tmp_path), "--history", "1"]) == 2
    assert "is a bert model, not one of vlm2rec, pixrec, seqrec, dmesr" in capsys.readouterr().err


def test_both_commands_tell_their_options(capsys):
    assert main([*TRAIN, "--help"]) == 0
    assert "--item_representation" in capsys.readouterr().out
    assert main(["recommend", "--help"]) == 0
    assert "-k" in capsys.readouterr().out
