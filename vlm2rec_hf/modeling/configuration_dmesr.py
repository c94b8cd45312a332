"""Configuration of a `DMESRModel`."""

from huggingface_hub.dataclasses import strict

from .configuration_seqrec import SeqRecConfig


@strict
class DMESRConfig(SeqRecConfig):
    r"""Configuration of a `DMESRModel`: a `SeqRecConfig` plus how descriptions become item vectors.

    What `SeqRecConfig` says holds for the encoder. Each item has two fused vectors of `hidden_size`, which the one
    encoder reads in turn; user and item vectors are twice as long.

    Args:
        item_representation: `"content"` (default; fused descriptions alone) or `"content+id"` (plus a learnt vector
            per item and view; our reading of "brings in the collaborative signal").
        content_dims: lengths of the frozen inputs, `{"coarse": D, "fine": F}`; `hidden_size` each by default.
        embedder: Hub id or folder of the text encoder that made the inputs.
        embedder_revision: its commit; inputs of another one are refused.
        inputs_fingerprint: hash of the inputs' file; other inputs are refused.
        adapter_size: width between an adapter's two linear layers; half of what comes in by default, at least
            `hidden_size` (our choice).
        fusion_heads: heads of the cross-attention; divides `hidden_size`.
        fusion_residual: add the queries to the attention's outputs, in both directions.
        fusion_norm: normalise each output (LayerNorm).
        items_per_block: items fused at once; where there are more, training recomputes each block in its backward
            pass, so that memory is bounded.

    Example:
        ```python
        from vlm2rec_hf import DMESRConfig

        config = DMESRConfig(n_items=3416, encoder="gru4rec", content_dims={"coarse": 384, "fine": 384})
        assert config.item_representation == "content" and config.adapter_width("fine") == 192
        ```
    """

    model_type = "dmesr"

    item_representation: str = "content"
    inputs_fingerprint: str | None = None
    adapter_size: int | None = None
    fusion_heads: int = 2
    fusion_residual: bool = True
    fusion_norm: bool = True
    items_per_block: int = 4096

    def __post_init__(self, **kwargs) -> None:  # noqa: ANN003 - signature is the library's
        if self.item_representation == "id":
            raise ValueError("`item_representation` must be 'content' or 'content+id': DMESR is about content.")
        if self.content_dims is None:
            self.content_dims = {"coarse": self.hidden_size, "fine": self.hidden_size}
        super().__post_init__(**kwargs)
        if set(self.content_dims) != {"coarse", "fine"}:
            raise ValueError(f"`content_dims` must name 'coarse' and 'fine', got {self.content_dims!r}.")
        for name in ("fusion_heads", "items_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.adapter_size is not None and self.adapter_size < 1:
            raise ValueError(f"`adapter_size` must be at least 1 or None, got {self.adapter_size}.")
        if self.hidden_size % self.fusion_heads:
            raise ValueError(f"`fusion_heads` must divide `hidden_size` {self.hidden_size}, got {self.fusion_heads}.")

    def adapter_width(self, kind: str) -> int:
        """Width between the two layers of the adapter of `"coarse"` or `"fine"` inputs."""
        size = int(self.content_dims[kind])  # type: ignore[index]
        return int(self.adapter_size or max(size // 2, self.hidden_size))
