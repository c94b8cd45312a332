"""`PixRecModel` (arXiv 2601.06458): user and item vectors, and the next item's text, from one backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText
from transformers.utils import ModelOutput

from .backbone_vlm2rec import BackboneModel, refuse_pixels
from .configuration_pixrec import PixRecConfig
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, require_safetensors
from .items_vlm2rec import PreparedItem, check_list
from .passes_vlm2rec import unit
from .processing_pixrec import PixRecProcessor
from .states_pixrec import mean_pool, next_token_nll


@dataclass
class PixRecOutput(ModelOutput):
    """What `PixRecModel.forward` returns.

    Attributes:
        user_embeddings: `(n, p)` unit vectors v_U of the histories; `None` without `history_mask`.
        target_embeddings: `(n, p)` unit vectors of the rows' targets: v_{T|U} behind a history, v_T alone; `None`
            without `target_mask`.
        item_embeddings: `(m, p)` unit vectors v_T of `items`; `None` without them.
        token_nll: `(n_tokens,)` nats of each labelled token given the row before it; `None` without `labels`.
    """

    user_embeddings: Tensor | None = None
    target_embeddings: Tensor | None = None
    item_embeddings: Tensor | None = None
    token_nll: Tensor | None = None


class PixRecModel(BackboneModel):
    """One vision-language model read in three ways: history, target behind it, target alone.

    v_U is the mean of the final-norm states of the history's tokens, v_{T|U} that of the target's tokens behind the
    history, v_T that of the target alone; a user projection leads from the first, one shared item projection from the
    other two to `projection_dim`. Attention is causal, so v_U does not depend on what comes after the history.
    Scores are cosine similarities of v_U and v_T.
    """

    config: PixRecConfig
    config_class = PixRecConfig
    trained_beside_adapters = ("user_projection", "item_projection")
    """Modules that are new, and so train whole where adapters train; see `BackboneFamily`."""

    def __init__(self, config: PixRecConfig) -> None:
        super().__init__(config)
        self.set_up_backbone()
        vocabulary = config.get_text_config().vocab_size
        # A tied head has no weights of its own, so there is nothing to tie, save twice or load in the wrong order.
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.hidden_size, vocabulary, bias=False)
        self.user_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.item_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.post_init()

    @classmethod
    def from_backbone(cls, backbone: str, *, seed: int = 0, **kwargs: Any) -> "PixRecModel":
        """Build a model from a raw vision-language checkpoint and its language-model head; the projections are new.

        Args:
            backbone: Hub id or path, such as `"HuggingFaceTB/SmolVLM-256M-Instruct"`.
            seed: of the projections' random weights; the global random state is left as it was.
            kwargs: `projection_dim`, `temperature`, `alpha`, `beta` of `PixRecConfig`; others for
                `AutoModelForImageTextToText.from_pretrained` (`revision`, `dtype`, `attn_implementation`, ...).

        Raises:
            ValueError: a weight of the backbone is missing in the checkpoint or has another shape.
        """
        options = {name: kwargs.pop(name) for name in PixRecConfig().backbone_options() if name in kwargs}
        require_safetensors(kwargs)
        refuse_pixels(kwargs)
        commit = hub_commit(str(backbone), **hub_arguments(kwargs))
        if commit is not None:
            kwargs["revision"] = commit
        loaded: Any = AutoModelForImageTextToText.from_pretrained(backbone, output_loading_info=True, **kwargs)
        whole, info = loaded
        refuse_random_weights("backbone", str(backbone), info)
        vlm, head = whole.model, whole.get_output_embeddings()
        config = PixRecConfig(
            vlm_config=vlm.config,
            tie_word_embeddings=head.weight is vlm.get_input_embeddings().weight,
            dtype=vlm.dtype,
            base_model=str(backbone) if commit else None,
            base_model_revision=commit,
            **options,
        )
        model = cls.around(vlm, config, None if config.tie_word_embeddings else head, seed=seed)
        if (how := getattr(whole.config, "quantization_config", None)) is not None:
            for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
                if hasattr(how, name):  # what is new is not quantized, neither now nor when it is loaded again
                    new = {part for part, _ in model.named_children()} - {"vlm"}
                    setattr(how, name, sorted({*(getattr(how, name) or []), *new}))
        return model.around_loaded(whole, str(backbone), commit)

    @classmethod
    def around(
        cls, vlm: Any, config: PixRecConfig, lm_head: nn.Linear | None = None, *, seed: int = 0
    ) -> "PixRecModel":
        """Put a model around a backbone that exists; only the projections (and an absent untied head) are new.

        Args:
            vlm: the backbone; used, not copied.
            config: whose `vlm_config` describes it.
            lm_head: its head, where that is not tied.
            seed: of the new weights; the global random state is left as it was.
        """
        config._attn_implementation = vlm.config._attn_implementation
        with torch.device("meta"):
            model = cls(config)
        model.set_up_backbone(vlm)
        weight = vlm.get_input_embeddings().weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if lm_head is not None or model.lm_head is None:
                model.lm_head = lm_head
            else:
                model.lm_head = _fresh(model.lm_head, config, weight)
            model.user_projection = _fresh(model.user_projection, config, weight)
            model.item_projection = _fresh(model.item_projection, config, weight)
        return model

    def get_output_embeddings(self) -> nn.Module | None:
        """The language-model head; `None` where it is the token embedding."""
        return self.lm_head

    @property
    def head_weight(self) -> Tensor:
        """`(vocabulary, hidden)` weight of the language-model head."""
        return self.get_input_embeddings().weight if self.lm_head is None else self.lm_head.weight

    @property
    def logit_softcap(self) -> float | None:
        """See `token_logits`; `None` for backbones without one."""
        return getattr(self.config.get_text_config(), "final_logit_softcapping", None)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        image_index: Tensor | None = None,
        image_features: Tensor | None = None,
        deepstack_features: Tensor | None = None,
    ) -> Tensor:
        """Final-norm states `(n, length, hidden)` of rows made by `PixRecProcessor`."""
        images = self._gather_images(pixel_values, image_grid_thw, image_index, image_features, deepstack_features)
        return self.family.run(self.vlm, input_ids, attention_mask, images)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        history_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        labels: Tensor | None = None,
        items: dict[str, Tensor] | None = None,
        **images: Any,
    ) -> PixRecOutput:
        """Read rows made by `PixRecProcessor`.

        Args:
            input_ids: `(n, length)`.
            attention_mask: `(n, length)`.
            history_mask: `(n, length)` bool, tokens averaged to v_U.
            target_mask: `(n, length)` bool, tokens averaged to v_{T|U} (behind a history) or v_T (alone).
            labels: `(n, length)` token ids to predict, aligned with `input_ids`, -100 elsewhere.
            items: a second batch, of items alone; one call for both lets data-parallel wrappers see the whole step.
            images: `pixel_values`, `image_grid_thw`, `image_index`, `image_features`, `deepstack_features` as
                `VLM2RecProcessor.collate` describes them.

        Raises:
            ValueError: rows are missing.
        """
        if input_ids is None or attention_mask is None:
            raise ValueError("`input_ids` and `attention_mask` are required; make batches with `PixRecProcessor`.")
        states = self.hidden_states(input_ids, attention_mask, **_image_arguments(images))
        output = PixRecOutput()
        if history_mask is not None:
            output.user_embeddings = self._project(self.user_projection, states, history_mask)
        if target_mask is not None:
            output.target_embeddings = self._project(self.item_projection, states, target_mask)
        if items is not None:
            output.item_embeddings = self(**items).target_embeddings
        if labels is not None:
            output.token_nll = next_token_nll(states, labels, self.head_weight, softcap=self.logit_softcap)
        return output

    def _project(self, projection: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
        return unit(projection(mean_pool(states, mask).to(self.head_weight.dtype)))

    @torch.no_grad()
    def encode_items(
        self, items: Sequence[Any], processor: PixRecProcessor, *, batch_size: int = 32, show_progress: bool = False
    ) -> Tensor:
        """v_T of items.

        Args:
            items: a sequence of items (`as_item`), read chunk by chunk; a `PreparedItem` is taken as it is.
            processor: made for this backbone.
            batch_size: rows per forward pass.
            show_progress: draw a progress bar.

        Returns:
            `(n, projection_dim)` unit vectors, float32, on the CPU.
        """
        items = check_list("items", items)
        return self._encode(
            len(items), lambda i: [items[i]], processor, "item", batch_size, "Items" if show_progress else None
        )

    @torch.no_grad()
    def encode_histories(
        self,
        histories: Sequence[Sequence[Any]],
        processor: PixRecProcessor,
        *,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> Tensor:
        """v_U of histories (lists of items, oldest first; none empty); see `encode_items` for the arguments."""
        histories = check_list("histories", histories)

        def recent(i: int) -> list[Any]:
            return list(check_list("histories[i]", histories[i]))[-processor.max_history :]

        return self._encode(
            len(histories), recent, processor, "user", batch_size, "Histories" if show_progress else None
        )

    def _encode(
        self,
        count: int,
        example: Callable[[int], list[Any]],
        processor: PixRecProcessor,
        role: str,
        batch_size: int,
        progress: str | None,
    ) -> Tensor:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        was_training = self.training
        self.eval()
        out = torch.zeros(count, self.config.projection_dim)
        try:
            with tqdm(total=count, desc=progress, disable=progress is None, leave=False) as bar:
                # Rows of like length share a batch, so little padding is computed; a chunk bounds what is in memory.
                for first in range(0, count, 16 * batch_size):
                    rows = range(first, min(count, first + 16 * batch_size))
                    prepared = [_prepared(processor, example(i)) for i in rows]
                    order = sorted(range(len(prepared)), key=[_length(row) for row in prepared].__getitem__)
                    for start in range(0, len(order), batch_size):
                        part = order[start : start + batch_size]
                        batch = processor.collate([prepared[i] for i in part], role).to(self.device)
                        output = self(**batch)
                        vectors = output.user_embeddings if role == "user" else output.target_embeddings
                        out[[rows[i] for i in part]] = vectors.float().cpu()
                        bar.update(len(part))
        finally:
            self.train(was_training)
        return out


def _fresh(like: nn.Linear, config: PixRecConfig, weight: Tensor) -> nn.Linear:
    """A new layer of the shape of `like`, normally distributed, where `weight` is."""
    layer = nn.Linear(like.in_features, like.out_features, bias=like.bias is not None)
    nn.init.normal_(layer.weight, std=float(config.initializer_range))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer.to(device=weight.device, dtype=weight.dtype)


def _image_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Those that describe images; wrappers such as PEFT's pass more."""
    names = ("pixel_values", "image_grid_thw", "image_index", "image_features", "deepstack_features")
    return {name: given[name] for name in names if given.get(name) is not None}


def _prepared(processor: PixRecProcessor, items: list[Any]) -> list[PreparedItem]:
    raw = iter(processor.prepare_items([item for item in items if not isinstance(item, PreparedItem)]))
    return [item if isinstance(item, PreparedItem) else next(raw) for item in items]


def _length(example: list[PreparedItem]) -> int:
    """A stand-in for the cost of an example."""
    return sum(len(item.text or ()) + (item.grid[1] * item.grid[2] if item.grid else 0) for item in example)
