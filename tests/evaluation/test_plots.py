import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm2rec_hf.evaluation.plots import METHOD_COLOURS, VIEW_COLOURS, plot_curves, plot_margins, plot_views

from .report_builders import make_report


def colours_in(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.int64)
    return {f"#{code:06x}" for code in np.unique((pixels << [16, 8, 0]).sum(axis=2))}


def test_views_plot_shows_every_view_in_its_colour(tmp_path):
    path = plot_views(make_report(views=("text", "image", "both", "scored")), tmp_path / "plots" / "views.png")
    with Image.open(path) as image:
        assert image.width > 600 and image.height > 400
    assert set(VIEW_COLOURS.values()) <= colours_in(path)
    only_text = plot_views(make_report(("a",), views=("text",)), tmp_path / "text.png", "hit@20")
    assert VIEW_COLOURS["text"] in colours_in(only_text) and VIEW_COLOURS["image"] not in colours_in(only_text)
    assert not list(tmp_path.rglob(".writing*"))


def test_margins_plot_reads_a_log_history(tmp_path):
    log = [{"step": s, "loss": 1.0, "margin_text": 0.1 * s, "margin_image": 0.05 * s} for s in range(5)]
    log += [{"train_runtime": 3.0}, {"step": 9, "eval_loss": 1.0}]
    path = plot_margins({"sft": log, "wpcl": log[:2]}, tmp_path / "margins.png")
    result = colours_in(path)
    assert VIEW_COLOURS["text"] in result and VIEW_COLOURS["image"] in result
    vector = plot_margins({"sft": log}, tmp_path / "margins.svg")
    assert vector.read_text().lstrip().startswith("<?xml")


def test_curves_have_a_colour_per_method_and_many_panels_wrap(tmp_path):
    curves = {"sft": [[(0, 0.1), (10, 0.2)], [(0, 0.1), (10, 0.3)]], "wpcl": [[(0, 0.1), (20, 0.15)]]}
    drawn = colours_in(plot_curves(curves, tmp_path / "curves.png"))
    assert set(METHOD_COLOURS[:2]) <= drawn and METHOD_COLOURS[3] not in drawn
    log = [{"step": s, "margin_text": 0.1 * s} for s in range(3)]
    one, many = (plot_margins({str(i): log for i in range(n)}, tmp_path / f"{n}.png") for n in (4, 6))
    with Image.open(one) as row, Image.open(many) as rows:
        assert rows.width == row.width and rows.height == 2 * row.height
    with pytest.raises(ValueError, match="`curves` is empty"):
        plot_curves({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="sft.*no point"):
        plot_curves({"sft": [[]]}, tmp_path / "a.png")


def test_bad_arguments_are_refused(tmp_path):
    report = make_report()
    with pytest.raises(ValueError, match="`metric`.*ndcg@10"):
        plot_views(report, tmp_path / "a.png", "ndcg@7")
    with pytest.raises(ValueError, match="`path`"):
        plot_views(report, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="`report`"):
        plot_views(make_report(()), tmp_path / "a.png")
    with pytest.raises(ValueError, match="`histories`"):
        plot_margins({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="sft.*no record"):
        plot_margins({"sft": [{"step": 1, "loss": 2.0}]}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_inside_functions_only():
    import vlm2rec_hf.evaluation.plots as plots

    tree = ast.parse(Path(plots.__file__).read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "pathlib" in top and not any(name.startswith("matplotlib") for name in top)
