"""A tiny raw checkpoint whose answers depend on what it is shown."""

import torch
from transformers import AutoModelForImageTextToText

from vlm2rec_hf.tiny.backbones import save_tiny_backbone


def save_talkative(folder, family):
    """Freshly initialised weights are so small that the answer is nearly always the same; these are larger."""
    save_tiny_backbone(folder, family, ["red tent", "blue mug"], hidden_size=32, vision_hidden_size=32)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Gemma's embeddings are large beside its layers' outputs as it is: larger, it would repeat the last word.
            if parameter.ndim > 1 and not (family in ("paligemma", "gemma3") and "embed_tokens" in name):
                parameter.mul_(8)
    model.save_pretrained(folder)
