"""What recommenders over a catalogue share: the encoder at work, raw ids in and out, saving with the catalogue."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .catalogue_seqrec import CATALOGUE_FILE, HeadCatalogue, Recommendation, by_view, recommend
from .configuration_seqrec import SeqRecConfig
from .encoders_seqrec import make_encoder
from .hub_loading import hub_arguments, hub_commit, refuse_random_weights, repo_file, require_safetensors

PADDING, MASK = -1, -2
"""Entries of `input_ids` that are no item: padding on the right, and (bert4rec) an item to be guessed."""

PUSH_OPTIONS = "repo_id commit_message commit_description private token revision create_pr tags".split()


@dataclass
class SeqRecOutput(ModelOutput):
    """What a `HeadModel`'s `forward` returns.

    Attributes:
        last_hidden_state: `(b, t, d)` the encoder's states; the inner product with an item vector is its score.
        user_vectors: `(b, d)` the state at each row's last entry; meaningless for an empty row.
        item_vectors: `(n_items, d)` the vectors of the whole catalogue, as read by the encoder.
    """

    last_hidden_state: Tensor | None = None
    user_vectors: Tensor | None = None
    item_vectors: Tensor | None = None


class SeqRecPreTrainedModel(PreTrainedModel):
    """Weight handling of sequential heads."""

    config_class = SeqRecConfig
    base_model_prefix = ""
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.GRU):
            for name, parameter in module.named_parameters():
                if name.startswith("weight_hh"):
                    init.orthogonal_(parameter)
                elif name.startswith("weight"):
                    init.xavier_uniform_(parameter)
                else:
                    init.zeros_(parameter)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, HeadModel):
            module._init_own_weights()


class HeadModel(SeqRecPreTrainedModel):
    """A sequence encoder over the vectors of a catalogue, which it knows by raw id.

    A subclass says what the items' vectors are (`item_vectors`). They are `hidden_size` long, or several such parts
    side by side: the one encoder then reads the rows once per part, and its states stand side by side likewise. The
    same vectors are what the encoder reads and what its states are compared with. `catalogue` is set by the trainer or
    `set_catalogue` and saved as `catalogue.parquet`.
    """

    def __init__(self, config: SeqRecConfig) -> None:
        super().__init__(config)
        self.catalogue: HeadCatalogue | None = None

    def _add_encoder(self) -> None:
        """Build the encoder; subclasses call it after their own parts and before `post_init`."""
        config: Any = self.config
        self.encoder = make_encoder(config)
        self.mask_vector = nn.Parameter(torch.zeros(config.hidden_size)) if config.encoder == "bert4rec" else None

    def _init_own_weights(self) -> None:
        """Initialise what belongs to no module of the library's."""
        if self.mask_vector is not None:
            init.normal_(self.mask_vector, mean=0.0, std=self.config.initializer_range)

    # ---- vectors

    def item_vectors(self) -> Tensor:
        """Vectors of the whole catalogue, `(n_items, d)`, with gradient."""
        raise NotImplementedError

    def check_content(self) -> None:
        """Check that what the items' vectors are made of has been set, before training.

        Raises:
            ValueError: it was never set.
        """

    def forward(
        self, input_ids: Tensor, item_vectors: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any
    ) -> SeqRecOutput:
        """Encode rows of item indices.

        Args:
            input_ids: `(b, t)` int64, `t <= max_length`: catalogue indices oldest first, then `PADDING` (-1) on the
                right; `MASK` (-2) stands for an item to guess (bert4rec only).
            item_vectors: `item_vectors()`, where the caller has it already.
            return_dict: accepted for the library's sake; the output is always a `SeqRecOutput`.
            kwargs: ignored.

        Raises:
            ValueError: rows longer than `max_length`.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] > self.config.max_length:
            raise ValueError(
                f"`input_ids` must be (b, t) with t <= `max_length` {self.config.max_length}, got "
                f"{tuple(input_ids.shape)}; keep the most recent items."
            )
        table = self.item_vectors() if item_vectors is None else item_vectors
        present = input_ids != PADDING
        parts = [self._encoded(input_ids, present, part) for part in table.split(self.config.hidden_size, dim=1)]
        states = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        last = (present.sum(dim=1) - 1).clamp(min=0)
        users = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        return SeqRecOutput(last_hidden_state=states, user_vectors=users, item_vectors=table)

    def _encoded(self, input_ids: Tensor, present: Tensor, table: Tensor) -> Tensor:
        """States `(b, t, hidden_size)` of rows whose items are read from `table` `(n_items, hidden_size)`."""
        vectors = nn.functional.embedding(input_ids.clamp(min=0), table) * self.config.hidden_size**0.5
        if self.mask_vector is not None:
            mask_vector = self.mask_vector * self.config.hidden_size**0.5
            vectors = torch.where((input_ids == MASK)[:, :, None], mask_vector.to(vectors.dtype), vectors)
        return self.encoder(vectors * present[:, :, None], present)

    @torch.no_grad()
    def encode_histories(self, histories: Sequence[Any], batch_size: int = 128) -> Tensor:
        """User vectors after each history, in evaluation mode.

        The encoder works in float32 at least, whatever its weights are stored in: in bfloat16 a user's list would
        depend on the rows beside it.

        Args:
            histories: non-empty sequences of catalogue indices, oldest first; the last `max_length` count.
            batch_size: rows at once; rows of similar length share a batch.

        Returns:
            `(n, d)` on the model's device.

        Raises:
            ValueError: an empty history.
        """
        order = sorted(range(len(histories)), key=lambda i: len(histories[i]))
        if order and len(histories[order[0]]) == 0:
            raise ValueError(f"`histories` holds an empty one in row {order[0]}; `recommend` handles cold users.")
        was_training, device = self.training, self.device
        self.eval()
        masked = self.mask_vector is not None
        room = self.config.max_length - int(masked)
        rows = [torch.as_tensor(history, dtype=torch.int64)[-room:] for history in histories]
        kind = torch.promote_types(self.dtype, torch.float32)
        table = self.item_vectors().to(kind)
        own = {n: w.to(kind) for n, w in self.named_parameters() if n.startswith(("encoder.", "mask_vector"))}
        states = table.new_zeros((len(rows), table.shape[1]))
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            width = max(len(rows[i]) for i in chosen) + int(masked)
            batch = torch.full((len(chosen), width), PADDING)
            for place, i in enumerate(chosen):
                batch[place, : len(rows[i])] = rows[i]
                if masked:
                    batch[place, len(rows[i])] = MASK
            with torch.autocast(device.type, enabled=False):
                output = torch.func.functional_call(self, own, (batch.to(device),), {"item_vectors": table})
            states[chosen] = output.user_vectors
        self.train(was_training)
        return states

    # ---- items

    def set_catalogue(
        self, ids: Sequence[str], popularity: Tensor | None = None, titles: Sequence[str | None] | None = None
    ) -> None:
        """Name the items: raw ids in the order of the item vectors; see `HeadCatalogue`.

        Raises:
            ValueError: another number of items than `config.n_items`, or ids that repeat.
        """
        if len(ids) != self.config.n_items:
            raise ValueError(f"`ids` must name {self.config.n_items} items, as the config says, got {len(ids)}.")
        self.catalogue = HeadCatalogue(ids, popularity, titles)

    def check_embedder(self, embedder: str | None, revision: str | None) -> None:
        """Compare an embedder with the one whose vectors this head was built on; what is None is not compared.

        Raises:
            ValueError: another embedder, or another revision of it: its vectors live in another space.
        """
        for name, ours, theirs in (
            ("embedder", self.config.embedder, embedder),
            ("embedder_revision", self.config.embedder_revision, revision),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(
                    f"`{name}` is {theirs!r}, but this head was built on the item vectors of {ours!r}; encode the "
                    "items with that one, or train a head on the new vectors."
                )

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        on_unknown: str = "error",
    ) -> list[Recommendation]:
        """The best items after each history, by raw id.

        Args:
            histories: raw item ids, oldest first; an empty one gets the most popular items, marked as such.
            k: how many items; fewer come back where there are fewer candidates.
            exclude_seen: leave out items of the history (all of it, not only the part that is read).
            candidates: raw ids to choose from; the whole catalogue by default.
            on_unknown: `"error"`, or `"skip"`: leave unknown ids out and count them.

        Returns:
            One `Recommendation` per history.

        Raises:
            ValueError: an unknown id, no catalogue, or `k < 1`.
        """
        return recommend(self, self._required_catalogue(), histories, k, exclude_seen, candidates, on_unknown)

    def _required_catalogue(self) -> HeadCatalogue:
        if self.catalogue is None:
            raise ValueError("This head has no `catalogue`; call `set_catalogue(ids, popularity, titles)` first.")
        return self.catalogue

    # ---- to disk and back

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, push_to_hub: bool = False, **kwargs: Any):  # noqa: ANN201
        """As in the library; `catalogue.parquet` is written beside the weights."""
        if self.catalogue is not None and kwargs.get("is_main_process", True):
            self.catalogue.save(save_directory)
        hub = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", os.path.basename(os.fspath(save_directory))), **hub)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in the library, by folder or Hub id and `revision`; the catalogue comes along.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            args: passed on.
            kwargs: passed on; `embedder_revision` is compared with the one the head was built on.

        Raises:
            ValueError: the head was built on the vectors of another `embedder_revision`.
        """
        wanted = kwargs.pop("embedder_revision", None)
        with_info = kwargs.pop("output_loading_info", False)
        require_safetensors(kwargs)
        if pretrained_model_name_or_path is None:  # built from a config and a state dict: no folder to look into
            return super().from_pretrained(None, *args, **kwargs)
        where, hub = str(pretrained_model_name_or_path), hub_arguments(kwargs)
        if (commit := hub_commit(where, **hub)) is not None:
            kwargs["revision"] = hub["revision"] = commit  # weights and catalogue of one version
        loaded: Any = super().from_pretrained(where, *args, **kwargs, output_loading_info=True)
        model, info = loaded
        refuse_random_weights("pretrained_model_name_or_path", where, info)
        model.check_embedder(None, wanted)
        path = repo_file(where, CATALOGUE_FILE, hub)
        if path is not None:
            catalogue = HeadCatalogue.load(path)
            model.set_catalogue(catalogue.ids, catalogue.popularity, catalogue.titles)
        return (model, info) if with_info else model


class SequentialRecommender(HeadModel):
    """SASRec, GRU4Rec or BERT4Rec over learnt ids, frozen content vectors, or both.

    The same item vectors are what the encoder reads and what its states are compared with. A head knows its items by
    raw id through `catalogue` (set by the trainer or `set_catalogue`, saved as `catalogue.parquet`).
    """

    def __init__(self, config: SeqRecConfig) -> None:
        super().__init__(config)
        self.item_embedding = nn.Embedding(config.n_items, config.hidden_size) if config.uses_ids else None
        self.content_views = tuple(config.content_dims or ())
        self.projections = nn.ModuleDict()
        for view in self.content_views:
            size = int(config.content_dims[view])  # type: ignore[index]
            self.register_buffer(f"content_{view}", torch.zeros(config.n_items, size))
            self.projections[view] = nn.Linear(size, config.hidden_size, bias=False)
        self._add_encoder()
        self.post_init()

    def _init_own_weights(self) -> None:
        super()._init_own_weights()
        for name in self.content_views:
            init.zeros_(self.content_buffer(name))

    # ---- vectors

    def content_buffer(self, view: str) -> Tensor:
        """The frozen `(n_items, D)` vectors of one view."""
        return getattr(self, f"content_{view}")

    def item_vectors(self) -> Tensor:
        """Vectors of the whole catalogue, `(n_items, d)`, with gradient; content is projected here, once."""
        parts = [self.projections[view](self.content_buffer(view)) for view in self.content_views]
        if self.item_embedding is not None:
            parts.append(self.item_embedding.weight)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def check_content(self) -> None:
        """Check that the content vectors of every view have been set, before training.

        Raises:
            ValueError: they are all zero.
        """
        for view in self.content_views:
            if not bool(self.content_buffer(view).any()):
                raise ValueError(f"`model` has no content vectors of view {view!r} yet; call `set_content` first.")

    # ---- items

    def set_content(self, vectors: Any, *, embedder: str | None = None, embedder_revision: str | None = None) -> None:
        """Put in the frozen content vectors of all items and record where they came from.

        Args:
            vectors: the items' `Encoding`; or view -> `(n_items, D)`, the views and lengths of `config.content_dims`.
            embedder: repo id or folder of the embedder.
            embedder_revision: its commit.

        Raises:
            ValueError: views, shapes or values that do not fit, or another embedder than recorded.
        """
        self.check_embedder(embedder, embedder_revision)
        checked = self._checked_content(vectors, self.config.n_items)
        for view, matrix in checked.items():
            self.content_buffer(view).copy_(matrix)
        self.config.embedder = embedder if embedder is not None else self.config.embedder
        if embedder_revision is not None:
            self.config.embedder_revision = embedder_revision

    def add_items(
        self,
        vectors: Any,
        ids: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        embedder_revision: str | None = None,
    ) -> None:
        """Make new items recommendable at once, without training, from their content vectors.

        With `content+id` a new item has no id vector yet: it gets the mean one, and differs by its content (our
        choice).

        Args:
            vectors: the items' `Encoding`; or view -> `(n, D)`, or the matrix itself where there is one view.
            ids: raw ids of the new items.
            titles: their titles.
            embedder_revision: commit of the embedder that made `vectors`; checked where given.

        Raises:
            ValueError: a head by id only, ids that are known already, vectors that do not fit, or another revision.
        """
        if not self.content_views:
            raise ValueError(
                "`add_items` needs content, but `item_representation` is 'id': a new item has no vector untrained."
            )
        catalogue = self._required_catalogue()
        self.check_embedder(None, embedder_revision)
        checked = self._checked_content(vectors, len(ids))
        extended = catalogue.extended(ids, titles)
        for view, matrix in checked.items():
            setattr(self, f"content_{view}", torch.cat([self.content_buffer(view), matrix]))
        if self.item_embedding is not None:
            old = self.item_embedding.weight.data
            larger = torch.cat([old, old.mean(dim=0, keepdim=True).expand(len(ids), -1)])
            self.item_embedding = nn.Embedding(len(larger), self.config.hidden_size, _weight=larger)
        self.config.n_items = len(extended)
        self.catalogue = extended

    @torch.no_grad()
    def init_ids_from(self, vectors: Tensor) -> None:
        """Start the id vectors from content: principal components, scaled like fresh weights (our choice).

        Args:
            vectors: `(n_items, D)`. With `D < hidden_size` the other components keep their random start.

        Raises:
            ValueError: a head without id vectors, or vectors that do not fit.
        """
        if self.item_embedding is None:
            raise ValueError("`init_ids_from` needs id vectors; `item_representation` is 'content'.")
        if vectors.ndim != 2 or len(vectors) != self.config.n_items or not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"`vectors` must be finite ({self.config.n_items}, D), got {tuple(vectors.shape)}.")
        centred = vectors.double() - vectors.double().mean(dim=0)
        _, axes = torch.linalg.eigh(centred.T @ centred)
        parts = centred @ axes.flip(1)[:, : self.config.hidden_size]
        scale = self.config.initializer_range / parts.std().clamp(min=1e-12)
        weight = self.item_embedding.weight
        weight[:, : parts.shape[1]] = (parts * scale).to(weight)

    def _checked_content(self, vectors: Any, n: int) -> dict[str, Tensor]:
        vectors = by_view(vectors, self.content_views)
        if set(vectors) != set(self.content_views):
            raise ValueError(f"`vectors` must hold the views {list(self.content_views)}, got {list(vectors)}.")
        checked = {}
        for view in self.content_views:
            like, matrix = self.content_buffer(view), torch.as_tensor(vectors[view])
            if matrix.shape != (n, like.shape[1]) or not bool(torch.isfinite(matrix).all()):
                raise ValueError(
                    f"`vectors` of view {view!r} must be finite ({n}, {like.shape[1]}), got {tuple(matrix.shape)}."
                )
            checked[view] = matrix.detach().to(like)
        return checked
