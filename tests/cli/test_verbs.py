"""One way for all methods: every verb of every method, from the command line and from Python, on a small shop."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from vlm2rec_hf import Report, embed, evaluate, load_model, load_processor, make_demo_shop, recommender
from vlm2rec_hf.cli.main import main

SMALL = ["--per_device_train_batch_size", "8", "--use_cpu", "true", "--max_users", "20", "--warmup_steps", "1"]
TINY = ["--tiny", "qwen2_vl", "--hidden_size", "32", "--vision_hidden_size", "32", "--image_size", "28"]
ENCODER = [*TINY, "--max_steps", "2", "--max_history", "3", "--save_strategy", "no"]
HEAD = ["--num_train_epochs", "1", "--hidden_size", "16", "--max_length", "8"]
TRAINING = {
    "vlm2rec": ENCODER,
    "pixrec": [*ENCODER, "--projection_dim", "8"],
    "seqrec": HEAD,
    "dmesr": [*HEAD, "--text_encoder", "lsa", "--lsa_dim", "6", "--text_column", "title", "--image_column",
              "description", "--both_column", "title"],
}  # fmt: skip
CLASSES = {
    "vlm2rec": "VLM2RecEmbedder", "pixrec": "PixRecModel", "seqrec": "SequentialRecommender", "dmesr": "DMESRModel",
}  # fmt: skip
METHODS = list(TRAINING)


@pytest.fixture(scope="module")
def dataset():
    return make_demo_shop(60, n_users=60).dataset()


@pytest.fixture(scope="module")
def shop(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs") / "shop"
    dataset.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    """Method -> folder, each trained once, when it is first asked for."""
    folders = {}

    def train(method):
        if method not in folders:
            folder = tmp_path_factory.mktemp("verbs") / method
            line = ["train", "--method", method, "--dataset", shop, "--output_dir", str(folder)]
            assert main([*line, *TRAINING[method], *SMALL]) == 0
            folders[method] = str(folder)
        return folders[method]

    return train


@pytest.mark.parametrize("method", METHODS)
def test_load_model_gives_the_right_class(trained, method):
    model = load_model(trained(method))
    assert type(model).__name__ == CLASSES[method] and not model.training
    assert model.config.model_type == method


@pytest.mark.parametrize("method", METHODS)
def test_evaluate_repeats_the_report_of_training(trained, dataset, shop, method, tmp_path):
    first = Report.load(f"{trained(method)}/evaluation")
    (name,) = first.methods
    by_path = evaluate(trained(method), dataset, max_users=20)
    by_object = evaluate(load_model(trained(method)), dataset, max_users=20)
    line = ["evaluate", "--dataset", shop, "--model", trained(method), "--max_users", "20", "--output"]
    assert main([*line, str(tmp_path / "report")]) == 0
    for report in (by_path, by_object, Report.load(tmp_path / "report")):
        assert report.methods == [name] and report.views(name) == first.views(name)
        assert set(report.floors) == set(first.floors) and report.protocol == first.protocol
        for view in first.views(name):
            assert report.ranks(name, view).tolist() == first.ranks(name, view).tolist()
    assert evaluate(trained(method), dataset, max_users=5, report_name="mine").methods == ["mine"]


@pytest.mark.parametrize("method", METHODS)
def test_recommend_says_the_same_from_both_and_what_evaluation_ranks_first(trained, dataset, shop, method, capsys):
    ready = recommender(trained(method), dataset)
    user = str(dataset.sequences().user_ids[2])
    history = ready.history_of(user)
    (best,) = ready.recommend([history], 5)
    assert len(best.item_ids) == 5 and not set(best.item_ids) & set(history) and None not in best.titles
    capsys.readouterr()
    assert main(["recommend", "--dataset", shop, "--model", trained(method), "--user", user, "-k", "5"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[1] for row in rows] == best.item_ids
    examples = dataset.examples("test", max_history=3)
    before = [str(item) for item in dataset.item_ids[examples.seen(0)]]
    (first,) = ready.recommend([before], dataset.n_items)
    report = evaluate(trained(method), dataset)
    (name,) = report.methods
    target = str(examples.sequences.item_ids[examples.targets[0]])
    assert first.item_ids.index(target) + 1 <= report.ranks(name)[0]  # evaluation counts ties against the model


@pytest.mark.parametrize("method", METHODS)
def test_embed_writes_what_python_gets(trained, dataset, shop, method, tmp_path):
    vectors = embed(trained(method), dataset)
    assert vectors.item_ids == dataset.item_ids.tolist() and vectors.revision.startswith("sha256:")
    assert set(vectors.views) == ({"text", "image", "both"} if method == "vlm2rec" else {"both"})
    output = tmp_path / "items.parquet"
    line = ["embed", "--dataset", shop, "--model", trained(method), "--output", str(output)]
    assert main(line) == 0
    table = pq.read_table(output)
    assert table["item_id"].to_pylist() == vectors.item_ids
    for view, matrix in vectors.views.items():
        assert torch.allclose(torch.tensor(table[view].to_pylist()), matrix, atol=1e-5)
    assert {key: table.schema.metadata[key.encode()].decode() for key in ("model", "revision")} == {
        "model": trained(method), "revision": vectors.revision
    }  # fmt: skip
    assert main(line) == 2  # never overwrites


@pytest.mark.parametrize("method", METHODS)
def test_push_and_all_verbs_by_hub_id(trained, dataset, shop, method, hub, capsys):
    assert main(["push", trained(method), f"org/{method}", "--tag", "v1.0", "--license", "mit"]) == 0
    assert "Published" in capsys.readouterr().out
    where, revision = f"org/{method}", "v1.0"
    assert type(load_model(where, revision=revision)).__name__ == CLASSES[method]
    here, there = (
        evaluate(trained(method), dataset, max_users=8),
        evaluate(where, dataset, revision=revision, max_users=8),
    )
    (name,) = here.methods
    assert here.ranks(name).tolist() == there.ranks(name).tolist()
    vectors = embed(where, dataset, revision=revision)
    assert torch.allclose(vectors.views["both"], embed(trained(method), dataset).views["both"], atol=1e-6)
    assert len(vectors.revision) == 40
    history = [[str(item) for item in dataset.item_ids[:2]]]
    local = recommender(trained(method), dataset).recommend(history, 3)
    assert recommender(where, dataset, revision=revision).recommend(history, 3)[0].item_ids == local[0].item_ids
    line = ["--dataset", shop, "--model", where, "--model-revision", revision]
    assert main(["recommend", *line, "--history", ",".join(history[0]), "-k", "3"]) == 0
    assert [row.split()[1] for row in capsys.readouterr().out.splitlines()[1:]] == local[0].item_ids


def test_a_revision_decides_which_kind_of_model_is_meant(trained, shop, hub, tmp_path, capsys):
    """`main` may hold another kind of model by now."""
    assert main(["push", trained("pixrec"), "org/any", "--tag", "v1.0", "--license", "mit"]) == 0
    assert main(["push", trained("vlm2rec"), "org/any", "--tag", "v2.0", "--license", "mit"]) == 0
    line = ["evaluate", "--dataset", shop, "--model", "org/any", "--max_users", "4"]
    for spelling in ("--model_revision", "--model-revision"):
        for tag, view in (("v1.0", "both"), ("v2.0", "text")):
            output = tmp_path / f"{spelling}{tag}"
            assert main([*line, spelling, tag, "--output", str(output)]) == 0
            report = Report.load(output)
            assert view in report.views(report.methods[0])
            assert report.methods == ["pixrec" if tag == "v1.0" else "wpcl+crtr+unimodal"]


@pytest.mark.parametrize(
    ("method", "option", "message"),
    [
        ("seqrec", ["--beams", "2"], "`--beams` is an option of PixRec models"),
        ("vlm2rec", ["--item_columns", "title"], "`--item_columns` is an option of PixRec models"),
        ("dmesr", ["--eval_max_history", "2"], "`--eval_max_history` is an option of embedders and PixRec models"),
        ("seqrec", ["--vision_cache_dir", "x"], "`--vision_cache_dir` is an option of embedders"),
    ],
)
def test_options_of_other_kinds_of_models_are_refused(trained, shop, tmp_path, method, option, message, capsys):
    line = ["evaluate", "--dataset", shop, "--model", trained(method), "--output", str(tmp_path / "report")]
    assert main([*line, *option]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "report").exists()


@pytest.mark.parametrize("command", ["train", "evaluate", "embed", "index", "merge"])
@pytest.mark.parametrize("option", [["--fusion", "internal"], ["--template", "qwen3_vl_embedding"]])
def test_a_trained_model_is_not_made_anew(trained, shop, tmp_path, command, option, capsys):
    """What a new embedder is made with cannot act on one that is there, so it is refused and nothing written."""
    output = str(tmp_path / "out.parquet")
    line = [command, "--dataset", shop, "--model", trained("vlm2rec"), "--output", output]
    line = [{"--output": "--output_dir"}.get(word, word) for word in line] if command == "train" else line
    assert main([*line, *option]) == 2
    message = f"`{option[0]}` '{option[1]}' is an option of a new embedder, and `--model` '{trained('vlm2rec')}' is a"
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["seqrec", "vlm2rec"])
def test_item_columns_are_no_option_of_embedding_heads_and_embedders(trained, shop, dataset, tmp_path, method, capsys):
    with pytest.raises(ValueError, match="`item_columns` is an option of PixRec models, and `model` is a"):
        embed(trained(method), dataset, item_columns=["title"])
    line = ["embed", "--dataset", shop, "--model", trained(method), "--output", str(tmp_path / "v.parquet")]
    assert main([*line, "--item_columns", "title"]) == 2
    assert "`--item_columns` is an option of PixRec models" in capsys.readouterr().err
    assert not (tmp_path / "v.parquet").exists()


def test_a_processors_options_are_checked_before_training(trained, shop, tmp_path, capsys):
    line = [
        "train",
        "--method",
        "vlm2rec",
        "--dataset",
        shop,
        "--output_dir",
        str(tmp_path / "out"),
        "--max_steps",
        "1",
    ]
    line += ["--model", trained("vlm2rec")]
    bad = [(["--max_item_tokens", "0"], "`--max_item_tokens` must be at least 1"),
           (["--min_pixels", "9", "--max_pixels", "8"], "`--min_pixels` must not be above `--max_pixels`"),
           (["--history_template", "nothing"], "`--history_template` must hold '{text}' once")]  # fmt: skip
    for options, message in bad:
        assert main([*line, *options]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    line += ["--max_pixels", "784", "--per_device_train_batch_size", "8", "--lora", "false", "--eval_strategy", "no"]
    assert main([*line, "--use_cpu", "true", "--max_users", "4"]) == 0
    assert load_processor(str(tmp_path / "out")).image_processor.size["longest_edge"] == 784


def test_a_head_is_refused_items_in_another_order(trained, dataset):
    head = load_model(trained("seqrec"))
    head.catalogue = type(head.catalogue)(list(reversed(head.catalogue.ids)))
    with pytest.raises(ValueError, match=r"`dataset` has 'p000000' at place 0, the head's catalogue 'p000059'"):
        evaluate(head, dataset)


def test_what_is_no_model_of_ours_is_named(tmp_path, dataset):
    with pytest.raises(ValueError, match="holds no config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a bert model, not one of vlm2rec, pixrec, seqrec, dmesr"):
        evaluate(str(tmp_path), dataset)
    with pytest.raises(ValueError, match="`model` must be a model of this package"):
        recommender(torch.nn.Linear(2, 2), dataset)
    with pytest.raises(ValueError, match="no folder .*, and the Hub has no such model"):
        load_model("no/such-model")


def test_a_changed_model_is_not_taken_for_the_saved_one(trained, dataset):
    from vlm2rec_hf.loading import origin_of

    model = load_model(trained("vlm2rec"))
    assert origin_of(model) == (trained("vlm2rec"), None)
    assert origin_of(model.to("cpu")) is not None
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert origin_of(model) is None
    assert embed(model, dataset).revision is None


def test_a_fused_optimizers_step_and_an_adapter_are_seen(trained):
    import peft

    from vlm2rec_hf.loading import origin_of

    model = load_model(trained("seqrec"))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    assert origin_of(model) == (trained("seqrec"), None)
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()  # moves no version counter
    assert origin_of(model) is None
    model = load_model(trained("vlm2rec"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2))
    assert origin_of(model) is None  # the weights are those of the folder, the vectors need not be
    assert adapted.unload() is model and origin_of(model) == (trained("vlm2rec"), None)
