"""`vlm2rec train --method pixrec` and `vlm2rec evaluate` of what it made."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from vlm2rec_hf import PixRecModel, make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.evaluation.report import Report

from ..conftest import needs_image_processor

ROOT = Path(__file__).parents[2]
SIZES = ["--hidden_size", "32", "--vision_hidden_size", "32", "--image_size", "28", "--vocab_size", "400"]
RECIPES = sorted((ROOT / "recipes").glob("pixrec_*.yaml"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixrec") / "shop"
    make_demo_shop(60, n_users=60).dataset().save(folder)
    return folder


def command(shop, output, *more, family="qwen2_vl"):
    return [
        "train", "--method", "pixrec", "--dataset", str(shop), "--tiny", family, *SIZES, "--max_steps", "2",
        "--per_device_train_batch_size", "8", "--output_dir", str(output), "--use_cpu", "true", "--save_strategy",
        "no", "--max_users", "20", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["qwen2_vl", "smolvlm"])
def trained(request, shop, tmp_path_factory):
    needs_image_processor(request.param)
    folder = tmp_path_factory.mktemp("trained") / "model"
    line = command(shop, folder, "--warm_up_backbone", "2", "--warm_up_batch_size", "16", family=request.param)
    assert main(line) == 0
    return folder


def test_train_leaves_a_model_a_card_and_an_honest_report(trained):
    report = Report.load(trained / "evaluation")
    assert report.methods == ["pixrec"] and report.views("pixrec") == ["both"] and len(report) == 20
    assert set(report.floors) == {"popularity", "repeat_last", "transitions", "item_knn", "ease"}
    with_seen = report.facts["with_seen"]
    assert set(with_seen) == {"pixrec", *report.floors}
    # Only with the items of the past as candidates does repeat-last repeat anything.
    assert report.floors["repeat_last"]["hit@10"]["mean"] == report.floors["popularity"]["hit@10"]["mean"]
    assert with_seen["repeat_last"] != with_seen["popularity"]
    assert "pixrec" in (trained / "README.md").read_text()
    told = json.loads((trained / "training.json").read_text())
    assert told["warm_up"]["steps"] == 2 and told["steps"] == 2
    assert PixRecModel.from_pretrained(trained).config.projection_dim == 128


def test_evaluate_repeats_what_train_reported(trained, shop, tmp_path, capsys):
    line = ["evaluate", "--dataset", str(shop), "--model", str(trained), "--output", str(tmp_path / "report")]
    assert main([*line, "--max_users", "20"]) == 0
    first, second = Report.load(trained / "evaluation"), Report.load(tmp_path / "report")
    assert first.ranks("pixrec").tolist() == second.ranks("pixrec").tolist()
    printed = capsys.readouterr().out
    assert "popularity (floor)" in printed and "repeat-last" in printed and "| repeat_last |" in printed


def test_evaluate_shows_the_model_what_it_was_trained_on(tmp_path, capsys):
    """Length of the histories and columns of the items need not be named again."""
    shop, model = tmp_path / "shop", tmp_path / "model"
    dataset = make_demo_shop(60, n_users=60).dataset()
    colours = [f"colour {i % 7}" for i in range(dataset.n_items)]
    dataset.with_item_columns({"brand": colours, "maker": colours}, step={"step": "colours"}).save(shop)
    assert main(command(shop, model, "--item_columns", "title,maker", "--max_history", "2")) == 0
    line = ["evaluate", "--dataset", str(shop), "--model", str(model), "--max_users", "20", "--output"]
    assert main([*line, str(tmp_path / "same")]) == 0
    assert main([*line, str(tmp_path / "other"), "--item_columns", "brand", "--eval_max_history", "4"]) == 0
    first, same, other = (
        Report.load(folder) for folder in (model / "evaluation", tmp_path / "same", tmp_path / "other")
    )
    assert same.ranks("pixrec").tolist() == first.ranks("pixrec").tolist() != other.ranks("pixrec").tolist()
    assert (same.facts["item_columns"], same.facts["max_history"]) == (["title", "maker"], 2)
    # A trainer in Python may show less than its processor keeps.
    settings = json.loads((model / "processor_config.json").read_text())
    assert settings["max_history"] == 2
    (model / "processor_config.json").write_text(json.dumps({**settings, "max_history": 5}))
    assert main([*line, str(tmp_path / "shown")]) == 0
    assert Report.load(tmp_path / "shown").ranks("pixrec").tolist() == first.ranks("pixrec").tolist()
    # A dataset without some of the columns is described by the others, and the user is told.
    dataset.with_item_columns({"brand": colours}, step={"step": "brand"}).save(tmp_path / "poorer")
    capsys.readouterr()
    line[2] = str(tmp_path / "poorer")
    assert main([*line, str(tmp_path / "poorer-report")]) == 0
    assert "title, maker" in capsys.readouterr().err
    assert Report.load(tmp_path / "poorer-report").facts["item_columns"] == ["title"]


def test_the_ablation_reads_no_image_and_says_so(shop, tmp_path):
    assert main(command(shop, tmp_path / "text", "--images", "false")) == 0
    report = Report.load(tmp_path / "text" / "evaluation")
    assert report.methods == ["pixrec-text"] and report.views("pixrec-text") == ["text"]
    settings = json.loads((tmp_path / "text" / "processor_config.json").read_text())
    assert settings["images"] is False


def test_ranking_by_generated_text(trained, shop, tmp_path, capsys):
    pytest.importorskip("bm25s", reason="the optional library bm25s (extra `pixrec`) is not installed")
    line = ["evaluate", "--dataset", str(shop), "--model", str(trained), "--output", str(tmp_path / "report")]
    line += ["--max_users", "10", "--generate_users", "4", "--beams", "2", "--max_new_tokens", "3"]
    assert main(line) == 0
    found = Report.load(tmp_path / "report").facts["generated"]
    assert found["n_examples"] == 4 and set(found["generation"]) == set(found["towers"])
    assert len(found["first_texts"]) == 4 and "By generated text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora", "true"], "--lora"),
        (["--per_device_train_batch_size", "1"], "per_device_train_batch_size"),
        (["--item_columns", "title,colour"], "colour"),
        (["--beams", "0"], "beams"),
        (["--model", "x"], "exactly one"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(shop, tmp_path, capsys, more, message):
    assert main(command(shop, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(recipe, tmp_path):
    from vlm2rec_hf.cli.parsing import option_of, parse
    from vlm2rec_hf.cli.train_pixrec import CHEAP
    from vlm2rec_hf.trainers.pixrec_args import PixRecTrainingArguments

    kinds = (*CHEAP, PixRecTrainingArguments)
    options = ["--config", str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"]
    _, data, models, *_, training = parse("train", "", kinds, options)
    assert option_of(options, "method") == "pixrec" and data.k_core == 5
    assert (models.model is None) != (models.tiny is None)
    assert (training.alpha, training.beta, training.temperature, training.max_history) == (0.125, 0.125, 0.5, 5)
    if models.model is not None:  # the comment's other backbone
        (words,) = re.findall(r"the same with (--model .*): the", recipe.read_text(encoding="utf-8"))
        _, _, models, *_, training = parse("train", "", kinds, [*options, *words.split()])
        assert models.model == "google/paligemma2-3b-pt-224" and training.gradient_accumulation_steps == 4


def test_the_guides_commands_run_in_small(tmp_path, monkeypatch):
    """Every command of docs/guides/pixrec.md on data that is there, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guides" / "pixrec.md").read_text(encoding="utf-8")
    (snippet,) = [s for s in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if '.save("shop")' in s]
    exec(compile(re.sub(r"make_demo_shop\(.*?\)", "make_demo_shop(60, n_users=60)", snippet), "pixrec.md", "exec"), {})
    ran = 0
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").strip().splitlines():
            words = shlex.split(line)
            if words[0] != "vlm2rec" or ("shop" not in words and words[1] != "compare"):
                continue
            if words[1] == "train":
                words += ["--warm_up_backbone", "2", "--max_steps", "2", *SIZES]
            if "--generate_users" in words:
                try:
                    import bm25s  # noqa: F401
                except ImportError:
                    continue
                words += ["--generate_users", "3", "--max_new_tokens", "2"]
            assert main(words[1:]) == 0, line
            ran += 1
    assert ran >= 4


def test_a_raw_backbone_brings_its_own_image_rules(tiny_pix, tmp_path):
    needs_image_processor("smolvlm")
    from transformers import AutoModelForImageTextToText

    from vlm2rec_hf.loading import load_or_build

    model, processor = tiny_pix("smolvlm")
    AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    # As a published checkpoint has it: without what the library's image processor does not hold.
    del processor.image_processor.patch_size, processor.image_processor.scale_factor
    processor.image_processor.save_pretrained(tmp_path)
    built = load_or_build(str(tmp_path), "pixrec", backbone_options={"projection_dim": 5})
    red_tent = {"text": "red tent", "image": Image.new("RGB", (28, 28), "red")}
    vectors = built.model.eval().encode_items([red_tent], built.processor)
    assert vectors.shape == (1, 5) and bool(vectors.isfinite().all())


def test_a_folder_without_a_model_is_named(tmp_path):
    from vlm2rec_hf.cli.arguments import EncoderModelArguments
    from vlm2rec_hf.cli.evaluate import load
    from vlm2rec_hf.loading import load_or_build

    with pytest.raises(ValueError, match="`where` .* holds no config.json"):
        load_or_build(str(tmp_path), "pixrec")
    with pytest.raises(ValueError, match="`--model` .* holds no config.json"):
        load(EncoderModelArguments(model=str(tmp_path)))
    with pytest.raises(ValueError, match="`--model` is required"):
        load(EncoderModelArguments())


def test_what_a_trained_model_is_made_of_cannot_be_changed(trained, shop, tmp_path, capsys):
    line = ["evaluate", "--dataset", str(shop), "--model", str(trained), "--output", str(tmp_path / "report")]
    for option in (["--projection_dim", "64"], ["--next_item_prompt", "Next:"]):
        assert main([*line, *option]) == 2
        assert f"no option `{option[0]}`" in capsys.readouterr().err
    sizes = {"qwen2_vl", *SIZES}
    again = [word for word in command(shop, tmp_path / "again", "--projection_dim", "64") if word not in sizes]
    again[again.index("--tiny")] = f"--model={trained}"
    assert main(again) == 2
    assert "`--projection_dim` 64 does not fit the trained model" in capsys.readouterr().err
