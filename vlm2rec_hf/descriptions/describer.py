"""A vision-language model that writes about items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..modeling.families_vlm2rec import families
from ..modeling.hub_loading import hub_commit, refuse_random_weights
from ..quiet import quiet_libraries
from .layouts import FamilyLayout, Layout, ProcessorLayout, chat_template_of
from .prompts import Prompts


@dataclass(frozen=True)
class Writing:
    """How descriptions are written.

    Attributes:
        max_new_tokens: length of a description at most.
        do_sample: sample instead of taking the likeliest token each time.
        temperature: of the sampling.
        top_p: share of the probability that is sampled from.
        seed: of the sampling; equal seeds, settings and items give equal descriptions, resumed or not.
    """

    max_new_tokens: int = 96
    do_sample: bool = False
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {self.max_new_tokens}.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}; greedy is `do_sample=False`.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be in (0, 1], got {self.top_p}.")

    def facts(self) -> dict[str, Any]:
        """Settings that decide the text; those of sampling only if it samples."""
        return asdict(self) if self.do_sample else {"max_new_tokens": self.max_new_tokens, "do_sample": False}


class Describer:
    """Writes descriptions with one model.

    Args:
        model: any image-text-to-text model.
        layout: how its rows are made.
        prompts: what it is asked.
        writing: how it answers.
    """

    def __init__(self, model: Any, layout: Layout, prompts: Prompts, writing: Writing) -> None:
        self.model, self.layout, self.prompts, self.writing = model.eval(), layout, prompts, writing

    @torch.no_grad()
    def write(self, kind: str, items: Sequence[dict[str, Any]], seed: int = 0) -> list[str]:
        """One description per item.

        Args:
            kind: `"text"`, `"image"` or `"both"`: what of the items is shown.
            items: dicts with `text` and `image`; each has what `kind` needs.
            seed: of the sampling in this batch; the global random state is left as it was.
        """
        batch = self.layout.batch(kind, items, self.prompts)
        batch = {name: self._placed(value) for name, value in batch.items()}
        how = self.writing
        sampling: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
        if how.do_sample:
            sampling = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        tokenizer = self.layout.tokenizer
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            written = self.model.generate(
                **batch,
                max_new_tokens=how.max_new_tokens,
                do_sample=how.do_sample,
                num_beams=1,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                **sampling,
            )
        new = written[:, batch["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)


def load_describer(
    model: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    prompts: Prompts,
    writing: Writing | None = None,
) -> Describer:
    """Load an image-text-to-text model with what lays out its rows, on the accelerator where there is one.

    Args:
        model: folder or Hub id.
        revision: tag, branch or commit.
        dtype: of the weights.
        prompts: see `load_prompts`.
        writing: greedy by default.

    Raises:
        ValueError: no such model, weights missing, or a processor that cannot be loaded here.
    """
    from transformers import AutoModelForImageTextToText

    try:
        revision = hub_commit(model, revision=revision or "main")
        with quiet_libraries():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                model, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"`model` {model!r} is no image-text-to-text model that can be loaded: {error}") from error
    vlm, info = loaded
    refuse_random_weights("model", model, info)
    if torch.cuda.is_available():
        vlm = vlm.to("cuda")
    return Describer(vlm, _layout(model, revision, vlm.config), prompts, writing or Writing())


def _layout(model: str, revision: str | None, config: Any) -> Layout:
    """Our own rows for the families we know, else those of the model's processor."""
    if any(config.model_type in family.model_types for family in families()):
        from ..modeling.processing_vlm2rec import VLM2RecProcessor

        processor = VLM2RecProcessor.from_backbone(model, revision=revision)
        return FamilyLayout(processor, config, chat_template_of(processor.tokenizer, model, revision))
    from transformers.models.auto.processing_auto import AutoProcessor

    try:
        return ProcessorLayout(AutoProcessor.from_pretrained(model, revision=revision))
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(
            f"`model` {model!r} ({config.model_type}) has a processor that cannot be loaded here: {error} Some need "
            "torchvision; Qwen-VL, SmolVLM, Idefics3, PaliGemma, LLaVA and Gemma 3 models work without."
        ) from error
