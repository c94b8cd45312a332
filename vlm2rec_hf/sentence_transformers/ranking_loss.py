"""`VLM2RecLoss` over the columns of a sentence-transformers dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import TrainerCallback

from ..losses.gather import gather_candidates
from ..losses.similarity import ViewVectors
from ..losses.vlm2rec import CITATION, DEFAULT_OBJECTIVE, VLM2RecLoss
from .sentence_features import check_features, content_keys, image_part, text_part

PARTS = {"text": text_part, "image": image_part}


@dataclass
class RankingBatch:
    """What the loss needs of a batch besides the vectors.

    Attributes:
        has_text: `(rows,)` bool of each column.
        has_image: `(rows,)` bool of each column.
        target_ids: `(n,)` long.
        candidate_ids: `(C,)` long, the columns after the first, one after the other.
        history_ids: `(n, H)` long padded with -1, or None.
        terms: filled when the loss is computed: weighted terms without a graph.
    """

    has_text: list[Tensor]
    has_image: list[Tensor]
    target_ids: Tensor
    candidate_ids: Tensor
    history_ids: Tensor | None
    terms: dict[str, Tensor] = field(default_factory=dict)


class VLM2RecRankingLoss(nn.Module):
    r"""Rank a user's next item above the other items of the batch, keeping text and images both useful.

    The loss of a `SentenceTransformerTrainer` over a dataset with the columns

    1. anchor: the user's history;
    2. positive: the item chosen next;
    3. any number of further columns: explicit negatives.

    Candidates of every user are the positives and negatives of the whole batch. Each column is embedded once per
    modality, which costs the same as embedding it once: the model runs text rows and image rows apart anyway, and
    with external fusion the vector of an input is exactly the sum of its parts' vectors.

    **False negatives.** A candidate that is the user's own positive in another row must not count as a negative.
    Without labels such candidates are recognised by content: same tokens and same images, as the model sees them.
    With
    an integer column `label` they are recognised by id; `label` holds, per row, the positive's item id, or a list of
    `[positive, negatives ..., history ...]`, where the history's ids (padded with -1 to one length) name further
    items that are no negatives of this user. (Both are our choice.)

    The terms of the objective are returned by name, so the trainer logs each; `diagnostics` holds what
    `VLM2RecLoss` reports of the last batch. Equations and references: `VLM2RecLoss` (arXiv 2603.17450).

    Args:
        model: a SentenceTransformer over a VLM2Rec embedder with external fusion, without further modules (a
            `Normalize` would break the sum of the parts).
        objective: one of `OBJECTIVES`.
        gather_across_devices: use the candidates of all processes; as in the library's own losses each process
            averages over its own users, and data-parallel training averages the gradients.
        modality_dropout: chance that a history with both modalities loses one, with the objective
            `"modality_dropout"` in training; read by no other objective.
        switches: the further arguments of `VLM2RecLoss` (`temperature`, `wpcl_lambda`, `crtr_beta`, ...). If one is
            a schedule, give the trainer `callbacks=[loss.progress_callback()]`.

    Raises:
        ValueError: a model of another kind, or what `VLM2RecLoss` refuses.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: str = DEFAULT_OBJECTIVE,
        *,
        gather_across_devices: bool = False,
        modality_dropout: float = 0.3,
        **switches: Any,
    ) -> None:
        super().__init__()
        if not 0.0 <= modality_dropout < 1.0:
            raise ValueError(f"`modality_dropout` must lie in [0, 1), got {modality_dropout!r}.")
        self.image_token_id = _image_token_id(model)
        self.model = model
        self.loss = VLM2RecLoss(objective, **switches)
        self.gather_across_devices = gather_across_devices
        self.modality_dropout = modality_dropout
        self.progress: float | None = None
        self.diagnostics: dict[str, Tensor] = {}

    @property
    def views(self) -> tuple[str, ...]:
        """The modalities that have to be embedded: one suffices if the objective looks at no other."""
        return {"text_only": ("text",), "image_only": ("image",)}.get(self.loss.objective, ("text", "image"))

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms of the objective.

        Args:
            sentence_features: preprocessed columns of `n` rows each: histories, positives, negatives ....
            labels: `(n,)` or `(n, k)` integers; see the class.

        Returns:
            Name -> scalar, weighted; their sum is the loss.

        Raises:
            ValueError: columns or labels that do not fit, or a schedule without progress.
        """
        columns = list(sentence_features)
        batch = self._batch(columns, labels)
        vectors = [
            {view: self.model(PARTS[view](column))["sentence_embedding"] for view in self.views} for column in columns
        ]
        terms = self._terms(vectors, batch)
        if torch.is_grad_enabled() and not any(term.requires_grad for term in terms.values()):
            # Nothing to learn from this batch, say no item has an image: a step of zero gradients.
            name = next(iter(terms))
            terms[name] = terms[name] + 0.0 * sum(p.float().sum() for p in self.parameters() if p.requires_grad)
        return terms

    def progress_callback(self) -> TrainerCallback:
        """A callback for the trainer that sets this loss's `progress`, for schedules."""
        return _TellProgress(self)

    def get_config_dict(self) -> dict[str, Any]:
        """Constructor arguments besides the model, in JSON types."""
        return {
            **self.loss.get_config_dict(),
            "gather_across_devices": self.gather_across_devices,
            "modality_dropout": self.modality_dropout,
        }

    @property
    def citation(self) -> str:
        """BibTeX for the model card."""
        return CITATION

    def _batch(self, columns: list[dict[str, Tensor]], labels: Tensor | None) -> RankingBatch:
        """Presence and ids of a batch."""
        if len(columns) < 2:
            raise ValueError(
                f"`sentence_features` must hold at least two columns (histories, positives), got {len(columns)}."
            )
        for position, column in enumerate(columns):
            check_features(f"sentence_features[{position}]", column)
            if len(column["input_ids"]) != len(columns[0]["input_ids"]):
                raise ValueError(
                    f"`sentence_features[{position}]` has {len(column['input_ids'])} rows, but there are "
                    f"{len(columns[0]['input_ids'])} histories; every column must have one row per user."
                )
        if labels is None:
            keys = [content_keys(column, self.image_token_id) for column in columns[1:]]
            target_ids, candidate_ids, history_ids = keys[0], torch.cat(keys), None
        else:
            target_ids, candidate_ids, history_ids = _ids_of_labels(
                labels, len(columns[0]["input_ids"]), len(columns) - 1
            )
        return RankingBatch(
            [column["has_text"].bool() for column in columns],
            [column["has_image"].bool() for column in columns],
            target_ids,
            candidate_ids,
            history_ids,
        )

    def _terms(self, vectors: list[dict[str, Tensor]], batch: RankingBatch) -> dict[str, Tensor]:
        """The weighted terms, from the vectors of each column by modality."""
        sides = [
            self._side(column, has_text, has_image)
            for column, has_text, has_image in zip(vectors, batch.has_text, batch.has_image, strict=True)
        ]
        users = self._drop(sides[0]) if self.loss.objective == "modality_dropout" else sides[0]
        candidates = ViewVectors(
            torch.cat([side.text for side in sides[1:]]),
            torch.cat([side.image for side in sides[1:]]),
            torch.cat([side.has_text for side in sides[1:]]),
            torch.cat([side.has_image for side in sides[1:]]),
        )
        ids, positive = batch.candidate_ids, torch.arange(len(users), device=users.text.device)
        if self.gather_across_devices:
            candidates, ids, positive = gather_candidates(candidates, ids, positive)
        output = self.loss(
            users,
            candidates,
            target_ids=batch.target_ids,
            candidate_ids=ids,
            positive=positive,
            history_ids=batch.history_ids,
            progress=self._progress(),
        )
        self.diagnostics = output.diagnostics
        batch.terms = {name: term.detach() for name, term in output.terms.items()}
        return output.terms

    def _side(self, vectors: dict[str, Tensor], has_text: Tensor, has_image: Tensor) -> ViewVectors:
        """One column; a modality that was not embedded is absent."""
        nothing = torch.zeros_like(next(iter(vectors.values())))
        return ViewVectors(
            vectors.get("text", nothing),
            vectors.get("image", nothing),
            has_text if "text" in vectors else torch.zeros_like(has_text),
            has_image if "image" in vectors else torch.zeros_like(has_image),
        )

    def _drop(self, users: ViewVectors) -> ViewVectors:
        """In training, drop one modality of some users, never their only one."""
        if not self.model.training:  # the trainer puts the model into evaluation, never its loss
            return users
        chance = torch.rand(2, len(users), device=users.text.device)
        drop = (chance[0] < self.modality_dropout) & users.has_text & users.has_image
        return ViewVectors(
            users.text,
            users.image,
            users.has_text & ~(drop & (chance[1] < 0.5)),
            users.has_image & ~(drop & (chance[1] >= 0.5)),
        )

    def _progress(self) -> float:
        if self.progress is not None:
            return self.progress
        ramps = [
            name
            for name in ("temperature", "wpcl_lambda", "crtr_beta", "crtr_temperature", "unimodal_weight")
            if getattr(self.loss, name).kind != "constant"
        ]
        if ramps:
            raise ValueError(
                f"`{ramps[0]}` is a schedule ({str(getattr(self.loss, ramps[0]))!r}), but nothing tells the loss how "
                "far the training is; give the trainer `callbacks=[loss.progress_callback()]` or set `loss.progress`."
            )
        return 0.0


class _TellProgress(TrainerCallback):
    """Sets the progress of a loss before every step."""

    def __init__(self, loss: VLM2RecRankingLoss) -> None:
        self.loss = loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation may come before the first step."""
        self.on_step_begin(args, state, control, **kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.progress = min(state.global_step / max(state.max_steps, 1), 1.0)


def _image_token_id(model: SentenceTransformer) -> int:
    """The placeholder of an image's patches in the model's rows.

    Raises:
        ValueError: `model` is no VLM2Rec embedder with external fusion and nothing behind it.
    """
    modules = list(model)
    config = getattr(getattr(modules[0], "auto_model", None), "config", None)
    kind, fusion = getattr(config, "model_type", None), getattr(config, "fusion", None)
    if kind != "vlm2rec" or fusion != "external" or len(modules) != 1:
        raise ValueError(
            "`model` must be a SentenceTransformer of one module over a VLM2Rec embedder with fusion='external', got "
            f"modules {[type(module).__name__ for module in modules]} over model type {kind!r} with fusion "
            f"{fusion!r}. Its vector must be the sum of the text's and the images'; with other models use the "
            "library's MultipleNegativesRankingLoss."
        )
    return int(config.vlm_config.image_token_id)  # type: ignore[union-attr]


def _ids_of_labels(labels: Tensor, n_rows: int, n_items: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Target ids `(n,)`, candidate ids `(n * n_items,)` column by column, and history ids `(n, H)` or None.

    Raises:
        ValueError: labels that are no integers, of another number of rows, or too few.
    """
    table = labels[:, None] if labels.dim() == 1 else labels
    if labels.is_floating_point() or table.dim() != 2 or len(table) != n_rows or table.shape[1] < n_items:
        raise ValueError(
            f"`labels` must hold integer item ids, for each of {n_rows} rows [positive, negatives ..., history ...], "
            f"at least {n_items} of them (one per item column), got {labels.dtype} of shape {tuple(labels.shape)}. "
            "Remove the column `label` to compare items by content."
        )
    items, history = table[:, :n_items].long(), table[:, n_items:].long()
    return items[:, 0], items.T.flatten().contiguous(), history if history.shape[1] else None
