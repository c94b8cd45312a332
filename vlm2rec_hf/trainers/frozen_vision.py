"""Whether the vision tower trains, and keeping a frozen tower's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..catalogues.vision_cache import VisionCache
from ..catalogues.vision_tower import is_sharded

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
    from .vlm2rec_args import VLM2RecTrainingArguments


def unfreeze_vision(embedder: VLM2RecEmbedder) -> None:
    """Let every weight of the tower train, whatever froze it before."""
    for parameter in embedder.vision_parameters():
        parameter.requires_grad_(True)


def keeps_features(embedder: VLM2RecEmbedder, args: VLM2RecTrainingArguments) -> bool:
    """Whether pictures pass the tower once: it is frozen, and the arguments do not say otherwise.

    Raises:
        ValueError: `vision_cache_dir` for a tower that trains.
    """
    frozen = not any(parameter.requires_grad for parameter in embedder.vision_parameters())
    if not frozen and args.vision_cache_dir is not None:
        raise ValueError(
            f"`vision_cache_dir` {args.vision_cache_dir!r} keeps a frozen tower's features, but the vision tower is "
            "being trained; leave it out, or set `freeze_vision=True`."
        )
    return frozen and args.cache_vision_features


def cache_features(
    catalogue: PreparedCatalogue, embedder: VLM2RecEmbedder, args: VLM2RecTrainingArguments
) -> PreparedCatalogue:
    """Run the catalogue's pictures through the tower, or read what `vision_cache_dir` holds of them."""
    cache = None
    if args.vision_cache_dir is not None:
        cache = VisionCache(args.vision_cache_dir, dtype=args.vision_cache_dtype)
    return catalogue.cache_features(
        embedder,
        cache,
        workers=args.dataloader_num_workers,
        show_progress=not args.disable_tqdm,
        device=args.device,  # the library brings the model there only later
    )


def other_catalogue(
    dataset: RecDataset, like: PreparedCatalogue, embedder: VLM2RecEmbedder, args: VLM2RecTrainingArguments
) -> PreparedCatalogue:
    """The items of another dataset for an evaluation; they use the cache on disk where there is one."""
    catalogue = PreparedCatalogue(dataset.catalogue_items(), like.processor)
    if args.vision_cache_dir is not None and keeps_features(embedder, args) and not is_sharded(embedder):
        cache_features(catalogue, embedder, args)
    return catalogue
