"""Figures of a card: drawn from the report, over earlier ones, and only where there is something to draw."""

import numpy as np
import pytest
from PIL import Image

from vlm2rec_hf.hub_cards import EmbedderFacts, render_embedder_card
from vlm2rec_hf.hub_cards.figures import plot_modality, write_figures

from .card_builders import MODALITY, config_folder, report, training, write_json

TEXT, IMAGE, BOTH = (0x3B, 0x6F, 0xB6), (0xE0, 0x8A, 0x2E), (0x3C, 0x8D, 0x5A)


def area(path, colour):
    """How many pixels have exactly this colour."""
    return int((np.asarray(Image.open(path).convert("RGB")) == colour).all(-1).sum())


def test_all_three_are_drawn_and_stand_in_the_card(tmp_path):
    folder = config_folder(tmp_path / "m", facts=training(), evaluation=report())
    history = [{"step": s, "margin_text": 0.1 * s, "margin_image": 0.05 * s} for s in range(3)]
    write_json(folder / "trainer_state.json", {"log_history": [*history, {"step": 3, "loss": 1.0}]})
    written = write_figures(folder)
    assert [path.name for path in written] == ["views.png", "modality.png", "margins.png"]
    for path in written:
        assert area(path, TEXT) > 100 and area(path, IMAGE) > 100
    card = render_embedder_card(EmbedderFacts.from_folder(folder))
    assert [f"(evaluation/{path.name})" in card for path in written] == [True] * 3
    assert write_figures(folder) == written  # again, over them


def test_only_what_was_measured_is_drawn(tmp_path):
    folder = config_folder(tmp_path / "m", evaluation=report(modality=None))
    for name in ("modality.png", "margins.png", "mine.png"):  # of an earlier report and training
        (folder / "evaluation" / name).write_bytes(b"old")
    assert [path.name for path in write_figures(folder)] == ["views.png"]
    figures = EmbedderFacts.from_folder(folder).figures
    assert figures == ("evaluation/margins.png", "evaluation/mine.png", "evaluation/views.png")
    write_json(folder / "trainer_state.json", {"log_history": [{"step": 3, "loss": 1.0}]})
    write_figures(folder)
    assert EmbedderFacts.from_folder(folder).figures == figures[1:]
    with pytest.raises(ValueError, match="must hold a saved report"):
        write_figures(config_folder(tmp_path / "n"))


def test_bars_follow_the_values(tmp_path):
    plot_modality({"a": MODALITY}, tmp_path / "a.png")
    plot_modality({"a": MODALITY | {"effective_rank_both": None}}, tmp_path / "b.png")
    assert area(tmp_path / "a.png", BOTH) > 10_000 and area(tmp_path / "b.png", BOTH) == 0
    higher = MODALITY | {"margin_image": MODALITY["margin_text"]}
    plot_modality({"a": higher}, tmp_path / "c.png")
    assert area(tmp_path / "c.png", IMAGE) > 1.1 * area(tmp_path / "a.png", IMAGE)


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`diagnostics` holds none"):
        plot_modality({"a": {"modality_gap": 0.5}}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="`path` must end in .png"):
        plot_modality({"a": MODALITY}, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
