"""`vlm2rec embed`: write the vectors of a dataset's items as one parquet file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vlm2rec_hf.cli.arguments import DataArguments, EmbedArguments, ModelArguments
from vlm2rec_hf.cli.common import load_embedder, model_version, open_dataset, parse, require


def main(argv: Sequence[str]) -> None:
    """Run the command.

    The file has one row per item: `item_id`, `both`, `text`, `image` (float32 lists; zeros where absent), `has_text`,
    `has_image`; its schema metadata holds the dataset's fingerprint and where the model came from.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlm2rec_hf.evaluation.embedder import encode_catalogue
    from vlm2rec_hf.modeling.prepared_catalogue import PreparedCatalogue

    data, models, options = parse("embed", __doc__ or "", (DataArguments, ModelArguments, EmbedArguments), argv)
    output = Path(require(options.output, "--output", "the parquet file to write"))
    if output.exists():
        raise ValueError(f"`--output` {str(output)!r} exists; name a new file or move the old one away.")
    dataset = open_dataset(data)
    model, processor = load_embedder(models)
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    found = encode_catalogue(model, catalogue, batch_size=options.embed_batch_size, show_progress=True)
    columns = {"item_id": pa.array(dataset.item_ids.tolist(), pa.string())}
    for view in ("both", "text", "image"):
        matrix = found.view(view).numpy()
        columns[view] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    columns["has_text"], columns["has_image"] = pa.array(found.has_text.numpy()), pa.array(found.has_image.numpy())
    table = pa.table(columns).replace_schema_metadata(
        {
            "dataset_fingerprint": dataset.fingerprint,
            "model": str(models.model),
            "revision": model_version(str(models.model), models.model_revision),
        }
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    pq.write_table(table, partial)
    os.replace(partial, output)
    print(f"{len(found):,} items x {found.both.shape[1]} dimensions -> {output}")
