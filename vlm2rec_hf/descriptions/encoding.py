"""Encode item descriptions: a dataset and a text encoder in, `EncodedItems` out.

It uses no model of this package: any object with the `encode` method of `SentenceTransformer` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..columns import ITEM_ID
from .encoded_items import EncodedItems

if TYPE_CHECKING:
    from ..data.dataset import RecDataset

ITEMS_AT_ONCE = 512
MAX_FINE_TOKENS = 64


@dataclass(frozen=True)
class DescriptionColumns:
    """Which item columns hold what.

    Attributes:
        text: description made from the text; an empty name leaves this kind out, here and below.
        image: description made from the image.
        both: description made from both.
        fine: the original text, read token by token; None: the column `text`, else `title`.
    """

    text: str = "description_text"
    image: str = "description_image"
    both: str = "description_both"
    fine: str | None = None

    def read(self, dataset: RecDataset) -> list[list[str | None]]:
        """The texts of all items, per column: text, image, both, fine; None where blank.

        Raises:
            ValueError: a column that the dataset does not have, or no description column at all.
        """
        if not (self.text or self.image or self.both):
            raise ValueError("`columns` must name at least one description column (text, image or both).")
        known = dataset.items.column_names
        named = {field: name for field, name in asdict(self).items() if name}
        lost = {field: name for field, name in named.items() if name not in known}
        if lost:
            raise ValueError(
                f"`columns` name {lost}, which the dataset's items do not have (they have {sorted(known)}); write "
                "descriptions with `vlm2rec describe`, or name other columns (`--text_column`, `--image_column`, "
                "`--both_column`, `--fine_column`)."
            )
        names = sorted(set(named.values()))
        rows = dataset.items.select_columns([ITEM_ID, *names]).with_format(None)
        read = {name: [_text(value) for value in rows[name]] for name in names}
        nothing: list[str | None] = [None] * dataset.n_items
        descriptions = [read.get(name, nothing) if name else nothing for name in (self.text, self.image, self.both)]
        return [*descriptions, read[self.fine] if self.fine else dataset.item_texts()]


def encode_descriptions(
    dataset: RecDataset,
    encoder: Any,
    *,
    model: str | None = None,
    revision: str | None = None,
    columns: DescriptionColumns | None = None,
    max_fine_tokens: int = MAX_FINE_TOKENS,
    batch_size: int = 32,
    show_progress: bool = False,
) -> EncodedItems:
    """Encode the descriptions and texts of all items.

    Args:
        dataset: whose items.
        encoder: a `SentenceTransformer`, or an `LSATextEncoder`.
        model: where the encoder came from, to be kept with the vectors.
        revision: its commit.
        columns: which item columns; `vlm2rec describe`'s by default.
        max_fine_tokens: tokens kept of each original text; memory and disk grow with it.
        batch_size: texts per forward pass.
        show_progress: draw a progress bar over the texts.

    Returns:
        Vectors in half precision, in the dataset's order. What is blank is marked absent.

    Raises:
        ValueError: missing columns, a dataset without a single description, numbers out of range, or vectors that are
            not finite.
    """
    import torch

    columns = columns or DescriptionColumns()
    if max_fine_tokens < 1 or batch_size < 1:
        raise ValueError(
            f"`max_fine_tokens` and `batch_size` must be at least 1, got {max_fine_tokens} and {batch_size}."
        )
    *described, originals = columns.read(dataset)
    if not any(text for kind in described for text in kind):
        raise ValueError("`dataset` has not a single description in the columns named; nothing could be aligned.")
    n = dataset.n_items
    coarse: Any = None
    total = sum(len({*texts} - {None}) for texts in described) + sum(text is not None for text in originals)
    with tqdm(total=total, desc="Texts", disable=not show_progress) as bar:
        encode = _Encode(encoder, batch_size, bar)
        for kind, texts in enumerate(described):
            vectors = encode.vectors(texts)
            if vectors is not None:
                coarse = np.zeros((n, 3, vectors.shape[1]), dtype=np.float16) if coarse is None else coarse
                coarse[[text is not None for text in texts], kind] = vectors
        fine, fine_present = encode.tokens(originals, max_fine_tokens)
    present = np.array([[text is not None for text in kind] for kind in described]).T
    for name, array in (("descriptions", coarse), ("texts", fine)):
        if not np.isfinite(array).all():
            raise ValueError(f"`encoder` gives vectors of {name} that are not finite in half precision; use another.")
    facts = {
        "model": model,
        "revision": revision,
        "columns": asdict(columns),
        "dataset_fingerprint": dataset.fingerprint,
        "max_fine_tokens": max_fine_tokens,
    }
    return EncodedItems(
        [str(item) for item in dataset.item_ids],
        torch.from_numpy(coarse),
        torch.from_numpy(np.ascontiguousarray(present)),
        torch.from_numpy(fine),
        torch.from_numpy(fine_present),
        facts,
    )


def encode_texts(
    texts: Sequence[str | None], encoder: Any, *, batch_size: int = 32, show_progress: bool = False
) -> np.ndarray:
    """One vector per text: `(n, D)` float32, zero where a text is blank or None; equal texts are encoded once.

    Args:
        texts: say `dataset.item_texts()`.
        encoder: as in `encode_descriptions`.
        batch_size: texts per forward pass.
        show_progress: draw a progress bar over the texts.

    Raises:
        ValueError: not a single text.
    """
    texts = [_text(text) for text in texts]
    with tqdm(total=len({*texts} - {None}), desc="Texts", disable=not show_progress) as bar:
        encoded = _Encode(encoder, batch_size, bar).vectors(texts)
    if encoded is None:
        raise ValueError("`texts` holds not a single text; nothing could be encoded.")
    vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
    vectors[[text is not None for text in texts]] = encoded
    return vectors


class _Encode:
    """Calls an encoder on texts, equal ones once."""

    def __init__(self, encoder: Any, batch_size: int, bar: tqdm) -> None:
        self.encoder, self.batch_size, self.bar = encoder, batch_size, bar
        # Of a model that reads images, the library takes a bare string for one where it looks like an image's address;
        # a dict says what it is. Models of texts alone take no dicts, some of them (StaticEmbedding).
        self.documents = hasattr(encoder, "encode_document")
        self.typed = self.documents and list(getattr(encoder, "modalities", ["text"])) != ["text"]

    def vectors(self, texts: Sequence[str | None]) -> np.ndarray | None:
        """`(number of texts that are there, D)`, None where none is."""
        there = [text for text in texts if text is not None]
        if not there:
            return None
        distinct = sorted(set(there))
        place = {text: row for row, text in enumerate(distinct)}
        vectors = np.concatenate(
            [
                np.asarray(self._call(distinct[start : start + ITEMS_AT_ONCE], "sentence_embedding"), np.float32)
                for start in range(0, len(distinct), ITEMS_AT_ONCE)
            ]
        )
        return vectors[[place[text] for text in there]]

    def tokens(self, texts: Sequence[str | None], limit: int) -> tuple[np.ndarray, np.ndarray]:
        """States `(n, L, F)` float16 and presence `(n, L)`; L is the longest text's, at most `limit`."""
        states, lengths = None, np.zeros(len(texts), dtype=np.int64)
        rows = [row for row, text in enumerate(texts) if text is not None]
        for start in range(0, len(rows), ITEMS_AT_ONCE):
            part = rows[start : start + ITEMS_AT_ONCE]
            encoded = self._call([str(texts[row]) for row in part], "token_embeddings")
            for row, token_states in zip(part, encoded, strict=True):
                token_states = np.asarray(token_states, dtype=np.float32)[:limit]
                if states is None:
                    states = np.zeros((len(texts), limit, token_states.shape[1]), dtype=np.float16)
                states[row, : len(token_states)] = token_states
                lengths[row] = len(token_states)
        if states is None:
            raise ValueError("`dataset` has not a single original text; name another `--fine_column`.")
        width = max(int(lengths.max()), 1)
        return np.ascontiguousarray(states[:, :width]), np.arange(width) < lengths[:, None]

    def _call(self, texts: list[str], what: str) -> Any:
        encoded = self._encoded(texts, what)
        self.bar.update(len(texts))
        return encoded

    def _encoded(self, texts: list[str], what: str) -> Any:
        if not self.documents:
            return self.encoder.encode(texts, output_value=what, batch_size=self.batch_size)
        inputs: list[Any] = [{"text": text} for text in texts] if self.typed else texts
        batch_size = self.batch_size
        if what == "sentence_embedding":
            return self.encoder.encode_document(inputs, batch_size=batch_size, show_progress_bar=False)
        # The library cuts off the filling on the right only; where it stands on the left, there must be none.
        tokenizer = getattr(self.encoder, "tokenizer", None)
        if getattr(getattr(tokenizer, "tokenizer", tokenizer), "padding_side", "right") == "left":
            batch_size = 1
        token_states = self.encoder.encode_document(
            inputs, output_value=what, convert_to_numpy=False, batch_size=batch_size, show_progress_bar=False
        )
        return [states.float().cpu().numpy() for states in token_states]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
