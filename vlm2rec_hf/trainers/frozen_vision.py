"""Whether the vision tower trains, and keeping a frozen tower's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..catalogues.prepared_catalogue import PreparedCatalogue
from ..catalogues.vision_cache import VisionCache
from ..catalogues.vision_tower import is_sharded

if TYPE_CHECKING:
    from .encoder_args import EncoderTrainingArguments


def unfreeze_vision(model: Any) -> None:
    """Let every weight of the tower train, whatever froze it before."""
    for parameter in model.vision_parameters():
        parameter.requires_grad_(True)


def settle_features(catalogue: PreparedCatalogue, model: Any, args: EncoderTrainingArguments) -> None:
    """Give a catalogue the features of a frozen tower, where the arguments want them kept.

    Raises:
        ValueError: `vision_cache_dir` or a catalogue with features for a tower that trains, or features of another
            tower.
    """
    if keeps_features(model, args) and not catalogue.has_cached_features:
        cache_features(catalogue, model, args)
    if catalogue.has_cached_features and not _is_frozen(model):
        raise ValueError("`catalogue` holds cached vision features, but the vision tower is being trained.")
    catalogue.check_features(model)


def keeps_features(model: Any, args: EncoderTrainingArguments) -> bool:
    """Whether images pass the tower once: it is frozen, and the arguments do not say otherwise.

    Raises:
        ValueError: `vision_cache_dir` for a tower that trains.
    """
    frozen = _is_frozen(model)
    if not frozen and args.vision_cache_dir is not None:
        raise ValueError(
            f"`vision_cache_dir` {args.vision_cache_dir!r} keeps a frozen tower's features, but the vision tower is "
            "being trained; leave it out, or set `freeze_vision=True`."
        )
    return frozen and args.cache_vision_features


def cache_features(catalogue: PreparedCatalogue, model: Any, args: EncoderTrainingArguments) -> PreparedCatalogue:
    """Run the catalogue's images through the tower, or read what `vision_cache_dir` holds of them."""
    cache = None
    if args.vision_cache_dir is not None:
        cache = VisionCache(args.vision_cache_dir, dtype=args.vision_cache_dtype)
    return catalogue.cache_features(
        model,
        cache,
        workers=args.dataloader_num_workers,
        show_progress=not args.disable_tqdm,
        device=args.device,  # the library brings the model there only later
    )


def evaluated_catalogue(items: Any, processor: Any, model: Any, args: EncoderTrainingArguments) -> PreparedCatalogue:
    """Prepare the items of another dataset for an evaluation; they use the cache on disk where there is one."""
    catalogue = PreparedCatalogue(items, processor)
    if args.vision_cache_dir is not None and keeps_features(model, args) and not is_sharded(model):
        cache_features(catalogue, model, args)
    return catalogue


def _is_frozen(model: Any) -> bool:
    return not any(parameter.requires_grad for parameter in model.vision_parameters())
