"""`DMESRModel`: a sequential recommender whose item vectors are fused from descriptions and texts."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from .configuration_dmesr import DMESRConfig
from .fusion_dmesr import ItemFusion
from .inputs_dmesr import ItemInputs
from .modeling_seqrec import HeadModel

CONVERTED_BYTES = 2**28
"""Up to this size the token states are kept as the weights' type; larger ones stay as they are, and on the disk."""


class DMESRModel(HeadModel):
    """DMESR (arXiv 2602.13715) over SASRec, GRU4Rec or BERT4Rec.

    Frozen vectors of three descriptions and of the tokens of the original text become two fused vectors per item
    (`ItemFusion`). The one encoder reads a history once in each view; a user is both states side by side, an item both
    fused vectors, a score their inner product.

    Training needs the frozen inputs (`set_inputs`). They are not saved: the fused vectors are, in float32, so that a
    saved model recommends on its own exactly as it did before, and a repo stays small whatever the text encoder.
    """

    config_class = DMESRConfig

    def __init__(self, config: DMESRConfig) -> None:
        super().__init__(config)
        self.inputs: ItemInputs | None = None
        size = 2 * config.hidden_size
        self.fusion = ItemFusion(config)
        self.item_embedding = nn.Embedding(config.n_items, size) if config.uses_ids else None
        self.register_buffer("fused_items", torch.zeros(config.n_items, size))
        self._add_encoder()
        self.post_init()

    def _init_own_weights(self) -> None:
        super()._init_own_weights()
        init.zeros_(self.fused_items)

    # ---- inputs

    def set_inputs(
        self,
        inputs: ItemInputs,
        *,
        embedder: str | None = None,
        embedder_revision: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Put in the frozen inputs of all items, to train on, and record where they came from.

        Args:
            inputs: of `config.n_items` items, with the lengths of `config.content_dims`.
            embedder: Hub id or folder of the text encoder.
            embedder_revision: its commit.
            fingerprint: hash of the inputs' file.

        Raises:
            ValueError: inputs that do not fit, are not finite, are of other items than the catalogue's (or in another
                order), or are others than recorded.
        """
        self._check_inputs(inputs, self.config.n_items)
        if self.catalogue is not None:
            inputs.check_items(self.catalogue.ids)
        self.check_embedder(embedder, embedder_revision)
        known = self.config.inputs_fingerprint
        if known is not None and fingerprint is not None and known != fingerprint:
            raise ValueError(f"`fingerprint` is {fingerprint!r}, but this model was trained on inputs {known!r}.")
        self.inputs = inputs
        for name, value in (
            ("embedder", embedder),
            ("embedder_revision", embedder_revision),
            ("inputs_fingerprint", fingerprint),
        ):
            if value is not None:
                setattr(self.config, name, value)

    def set_catalogue(
        self, ids: Sequence[str], popularity: Tensor | None = None, titles: Sequence[str | None] | None = None
    ) -> None:
        """As in every head; the inputs, where they know their items, must be of these.

        Raises:
            ValueError: ids that do not fit the inputs, or another number of them than items.
        """
        if self.inputs is not None:
            self.inputs.check_items(ids)
        super().set_catalogue(ids, popularity, titles)

    def check_content(self) -> None:
        """Check that there are inputs to train on.

        Raises:
            ValueError: `set_inputs` was not called.
        """
        if self.inputs is None:
            raise ValueError("`model` has no frozen inputs to train on; call `set_inputs` first.")

    def add_items(
        self,
        inputs: ItemInputs,
        ids: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        embedder_revision: str | None = None,
    ) -> None:
        """Make new items recommendable at once, without training, from their descriptions and texts.

        With `content+id` a new item gets the mean id vector (our choice, as in `SequentialRecommender.add_items`).

        Args:
            inputs: of the new items, by the same text encoder.
            ids: their raw ids.
            titles: their titles.
            embedder_revision: commit of the text encoder; checked where given.

        Raises:
            ValueError: ids that are known already, inputs that do not fit, or another text encoder.
        """
        catalogue = self._required_catalogue()
        self.check_embedder(None, embedder_revision)
        self._check_inputs(inputs, len(ids))
        inputs.check_items(ids)
        extended = catalogue.extended(ids, titles)
        with torch.no_grad():
            old = self.item_vectors()
            new = self._fused(inputs)
            if self.item_embedding is not None:
                weight = self.item_embedding.weight
                mean = weight.mean(dim=0, keepdim=True)
                new = new + mean
                larger = torch.cat([weight, mean.expand(len(ids), -1)])
                self.item_embedding = nn.Embedding(len(larger), larger.shape[1], _weight=larger)
            self.fused_items = torch.cat([old, new.to(old)])
        if self.inputs is not None:
            self.inputs = self.inputs.followed_by(inputs.to(self.inputs.coarse.device))
        self.config.n_items = len(extended)
        self.config.inputs_fingerprint = None  # no file holds these items together
        self.catalogue = extended

    def _check_inputs(self, inputs: ItemInputs, n: int) -> None:
        wanted = dict(self.config.content_dims)
        if len(inputs) != n or inputs.dims != wanted:
            raise ValueError(
                f"`inputs` must be of {n} items with vectors of {wanted}, got {len(inputs)} items with {inputs.dims}."
            )
        inputs.check_finite()

    # ---- vectors

    def item_vectors(self) -> Tensor:
        """Vectors of the whole catalogue, `(n_items, 2 * hidden_size)`.

        With inputs they are fused now, with gradient; without, they are those that were saved.

        Raises:
            ValueError: training without inputs.
        """
        if self.inputs is None:
            if self.training and torch.is_grad_enabled():
                self.check_content()
            return self.fused_items
        small = self.inputs.fine.numel() * self.dtype.itemsize <= CONVERTED_BYTES
        self.inputs = self.inputs.to(self.device, self.dtype if small else None)  # nothing happens the next time
        fused = self._fused(self.inputs)
        return fused if self.item_embedding is None else fused + self.item_embedding.weight

    def description_vectors(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """What the alignment loss compares: adapted descriptions of some items.

        Args:
            items: `(m,)` catalogue indices.

        Returns:
            `(m, 3, hidden_size)` with gradient, and `(m, 3)` bool, which of them are there.
        """
        self.check_content()
        inputs: Any = self.inputs
        items = items.to(inputs.coarse.device)
        descriptions = self.fusion.descriptions(inputs.coarse[items].to(self.device))
        return descriptions, inputs.coarse_present[items].to(self.device)

    def _fused(self, inputs: ItemInputs) -> Tensor:
        size = self.config.items_per_block
        blocks = [inputs.rows(start, start + size).to(self.device) for start in range(0, len(inputs), size)]
        if len(blocks) > 1 and torch.is_grad_enabled():
            # Nothing random happens in the fusion, so the random state need not be kept.
            parts = [checkpoint(self.fusion, each, use_reentrant=False, preserve_rng_state=False) for each in blocks]
        else:
            parts = [self.fusion(each) for each in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # ---- to disk

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any):  # noqa: ANN201
        """As in the library; the present fused vectors are saved, too, and `catalogue.parquet` beside the weights."""
        if self.inputs is not None:
            with torch.no_grad():
                self.fused_items.copy_(self.item_vectors())
            if kwargs.get("state_dict") is not None:
                kwargs["state_dict"] = {**kwargs["state_dict"], "fused_items": self.fused_items}
        return super().save_pretrained(save_directory, *args, **kwargs)
