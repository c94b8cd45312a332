"""`SequentialRecommender`: a small sequence encoder over item vectors that recommends raw item ids."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .base_seqrec import MASK as MASK
from .base_seqrec import PADDING as PADDING
from .base_seqrec import CatalogueRecommender
from .base_seqrec import SeqRecOutput as SeqRecOutput
from .base_seqrec import SeqRecPreTrainedModel as SeqRecPreTrainedModel
from .configuration_seqrec import SeqRecConfig


class SequentialRecommender(CatalogueRecommender):
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
        """Refuse to be trained while the content vectors of a view were never set.

        Raises:
            ValueError: they are all zero.
        """
        for view in self.content_views:
            if not bool(self.content_buffer(view).any()):
                raise ValueError(f"`model` has no content vectors of view {view!r} yet; call `set_content` first.")

    # ---- items

    def set_content(
        self, vectors: Mapping[str, Tensor], *, embedder: str | None = None, embedder_revision: str | None = None
    ) -> None:
        """Put in the frozen content vectors of all items and record where they came from.

        Args:
            vectors: view -> `(n_items, D)`, the views and lengths of `config.content_dims`.
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
        vectors: Mapping[str, Tensor] | Tensor,
        ids: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        embedder_revision: str | None = None,
    ) -> None:
        """Make new items recommendable at once, without training, from their content vectors.

        With `content+id` a new item has no id vector yet: it gets the mean one, and its content tells it apart (our
        choice).

        Args:
            vectors: view -> `(n, D)`, or the matrix itself where there is one view.
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
        if isinstance(vectors, Tensor):
            if len(self.content_views) != 1:
                raise ValueError(f"`vectors` must map each view of {self.content_views} to a matrix, got one matrix.")
            vectors = {self.content_views[0]: vectors}
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

    def _checked_content(self, vectors: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
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
