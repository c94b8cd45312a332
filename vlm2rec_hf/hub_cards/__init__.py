"""Cards of Hub repos: facts read from a model folder or a dataset, rendered into Markdown with checked front matter.

Usual way: `write_card(render_embedder_card(EmbedderFacts.from_folder(folder, repo_id)), folder)`.
"""

from .card import render_dataset_card, render_embedder_card, render_head_card, render_space_card, write_card
from .facts import DatasetFacts, EmbedderFacts, HeadFacts, SpaceFacts

__all__ = [
    "DatasetFacts",
    "EmbedderFacts",
    "HeadFacts",
    "SpaceFacts",
    "render_dataset_card",
    "render_embedder_card",
    "render_head_card",
    "render_space_card",
    "write_card",
]
