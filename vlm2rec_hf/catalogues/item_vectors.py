"""Item vectors for heads: read from what `vlm2rec embed` wrote, or made by an embedder or text encoder on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..cli.text_encoders import TextEncoderArguments
    from ..data.dataset import RecDataset

VIEWS = ("both", "text", "image")


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of a dataset's items and where they came from.

    Attributes:
        views: view -> `(n_items, dim)` float32, in catalogue order.
        embedder: repo id or folder of the embedder, None where it is not known.
        revision: its commit, tag or branch, None where it is not known.
    """

    views: dict[str, torch.Tensor]
    embedder: str | None
    revision: str | None


def view_names(text: str) -> tuple[str, ...]:
    """`text,image` as names of views.

    Raises:
        ValueError: an unknown view, one named twice, or none.
    """
    names = tuple(part.strip() for part in text.split(","))
    if len(set(names)) != len(names) or not set(names) <= set(VIEWS):
        raise ValueError(f"`--views` must be some of {', '.join(VIEWS)}, separated by commas; got {text!r}.")
    return names


def read_item_vectors(path: str | Path, dataset: RecDataset, views: tuple[str, ...]) -> ItemVectors:
    """Vectors from a file or folder of `vlm2rec embed`, put in the dataset's order.

    The file may hold more items than the dataset (it was made before a k-core, say), never fewer.

    Raises:
        ValueError: no such file or folder, not one of `vlm2rec embed`, ids that repeat, or items of the dataset that
            it lacks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from .vector_files import table_files

    if not Path(path).exists():
        raise ValueError(f"`--vectors` {str(path)!r} does not exist; write it with `vlm2rec embed`.")
    try:
        files, facts = table_files(Path(path))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`--vectors` {str(path)!r} is no parquet file: {error}") from error
    except ValueError as error:
        raise ValueError(f"`--vectors` {error}") from error
    try:
        schema = pq.read_schema(files[0])
        lost = [name for name in ("item_id", *views) if name not in schema.names]
        if lost:
            raise ValueError(f"`--vectors` {str(path)!r} has no columns {lost}; write it with `vlm2rec embed`.")
        table = pa.concat_tables(pq.read_table(file, columns=["item_id", *views]) for file in files)
    except pa.ArrowInvalid as error:
        raise ValueError(f"`--vectors` {str(path)!r} is no parquet file: {error}") from error
    place = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    if len(place) != table.num_rows:
        raise ValueError(f"`--vectors` {str(path)!r} holds items twice; write it again with `vlm2rec embed`.")
    absent = [item for item in dataset.item_ids if item not in place]
    if absent:
        raise ValueError(
            f"`--vectors` {str(path)!r} lacks {len(absent)} of the dataset's {dataset.n_items} items, such as "
            f"{absent[0]!r}; write it again with `vlm2rec embed` for this dataset."
        )
    rows = np.array([place[item] for item in dataset.item_ids], dtype=np.int64)
    found = {}
    for view in views:
        column = table[view].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type) or column.null_count:
            raise ValueError(
                f"`--vectors` {str(path)!r}: column {view!r} must hold lists of one length, none missing."
            )
        matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        found[view] = torch.from_numpy(matrix[rows].astype(np.float32))
    return ItemVectors(found, facts.get("model") or None, facts.get("revision") or None)


def encode_item_vectors(
    embedder: str, revision: str | None, dataset: RecDataset, views: tuple[str, ...], batch_size: int = 64
) -> ItemVectors:
    """Vectors by an embedder, loaded for the purpose.

    Raises:
        ValueError: nothing loadable under that name.
    """
    from ..cli.arguments import ModelArguments
    from ..cli.common import load_embedder, model_version
    from ..evaluation.embedder import encode_catalogue
    from .prepared_catalogue import PreparedCatalogue

    model, processor = load_embedder(ModelArguments(model=embedder, model_revision=revision))
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    found = encode_catalogue(model, catalogue, batch_size=batch_size, show_progress=True)
    version = model_version(embedder, revision)
    return ItemVectors({view: found.view(view).float().cpu() for view in views}, embedder, version)


def encode_item_texts(options: TextEncoderArguments, dataset: RecDataset) -> ItemVectors:
    """The view `text`, by a frozen text encoder that knows nothing of interactions; zero where an item has no text.

    Raises:
        ValueError: nothing loadable under that name, or a dataset without texts.
    """
    import torch

    from ..descriptions.encode_descriptions import encode_texts

    texts = dataset.item_texts()
    if not any(texts):
        raise ValueError("`--text_encoder` needs texts, but the dataset's items have none.")
    encoder, name, version = options.load_text_encoder([text for text in texts if text])
    vectors = encode_texts(texts, encoder, batch_size=options.encode_batch_size, show_progress=True)
    return ItemVectors({"text": torch.from_numpy(vectors)}, name, version)
