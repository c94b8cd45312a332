"""Configuration of a `SequentialRecommender`."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

SEQUENCE_ENCODERS = ("sasrec", "gru4rec", "bert4rec")
ITEM_REPRESENTATIONS = ("id", "content", "content+id")


@strict
class SeqRecConfig(PreTrainedConfig):
    r"""Configuration of a `SequentialRecommender`: a small sequence encoder over item vectors.

    Args:
        n_items: size of the catalogue; item indices run from 0 to `n_items - 1`.
        encoder: `"sasrec"` (causal self-attention, normalised before each part), `"gru4rec"` (recurrent) or
            `"bert4rec"` (bidirectional self-attention, trained on masked items).
        item_representation: `"id"` (a learnt vector per item), `"content"` (frozen vectors, projected) or
            `"content+id"` (their sum).
        content_dims: length of the frozen vectors by view, such as `{"both": 512}` or `{"text": 512, "image": 512}`;
            each view has a projection of its own and the projections are added. Needed for the content modes.
        hidden_size: length of item and user vectors.
        num_layers: blocks of the encoder.
        num_heads: attention heads; divides `hidden_size`.
        intermediate_size: inner width of the feed-forward parts; `hidden_size` by default, as in SASRec.
        max_length: most recent items that are read.
        dropout: on embeddings, attention and feed-forward parts during training.
        initializer_range: standard deviation of fresh weights.
        embedder: Hub id or folder of the embedder that made the content vectors, if any.
        embedder_revision: its commit; item vectors of another one are refused.
        validation_users: how many users' validation items were held out of training, where the others' were trained
            on; None where it was the training split alone.
        validation_seed: by which these users were drawn.

    Example:
        ```python
        from vlm2rec_hf import SeqRecConfig

        config = SeqRecConfig(n_items=3416, hidden_size=128, max_length=200)
        assert config.encoder == "sasrec"
        ```
    """

    model_type = "seqrec"

    n_items: int = 1
    encoder: str = "sasrec"
    item_representation: str = "id"
    content_dims: dict | None = None
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    intermediate_size: int | None = None
    max_length: int = 50
    dropout: float | int = 0.2
    initializer_range: float | int = 0.02
    embedder: str | None = None
    embedder_revision: str | None = None
    validation_users: int | None = None
    validation_seed: int | None = None

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        super().__post_init__(**kwargs)
        if self.encoder not in SEQUENCE_ENCODERS:
            raise ValueError(f"`encoder` must be one of {SEQUENCE_ENCODERS}, got {self.encoder!r}.")
        if self.item_representation not in ITEM_REPRESENTATIONS:
            raise ValueError(
                f"`item_representation` must be one of {ITEM_REPRESENTATIONS}, got {self.item_representation!r}."
            )
        if self.uses_content != bool(self.content_dims):
            raise ValueError(
                f"`content_dims` must name the views' lengths exactly where content is used, got {self.content_dims!r}"
                f" with `item_representation` {self.item_representation!r}; for example {{'both': 512}}."
            )
        for name in ("n_items", "hidden_size", "num_layers", "num_heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.encoder == "bert4rec" and self.max_length < 2:
            raise ValueError(f"`max_length` must be at least 2 for bert4rec (one is its mask), got {self.max_length}.")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"`num_heads` must divide `hidden_size` {self.hidden_size}, got {self.num_heads}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if self.intermediate_size is None:
            self.intermediate_size = self.hidden_size

    @property
    def uses_ids(self) -> bool:
        """Whether each item has a learnt vector of its own."""
        return self.item_representation != "content"

    @property
    def uses_content(self) -> bool:
        """Whether items are described by frozen content vectors."""
        return self.item_representation != "id"
