"""`ScoreOptions`: how an embedder's vectors become a score, kept in its `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MODALITIES = ("text", "image")


@dataclass(frozen=True)
class ScoreOptions:
    """How a user's and an item's text and image vectors become one score; the defaults are the bare cosine.

    With `u_T`, `u_V` a user's vectors, `i_T`, `i_V` an item's, and `a_T`, `a_V` the view weights:

        cross terms:     c(u, i) = cosine of sqrt(a_T) u_T + sqrt(a_V) u_V  and  sqrt(a_T) i_T + sqrt(a_V) i_V
        no cross terms:  c(u, i) = cosine of [sqrt(a_T) u_T, sqrt(a_V) u_V] and [sqrt(a_T) i_T, sqrt(a_V) i_V]
        score(u, i)   =  c(u, i) + temperature * popularity_prior * log(1 + n_i)

    where `[.., ..]` puts vectors side by side and `n_i` is how often the item occurs in training. So without cross
    terms `c = (a_T u_T.i_T + a_V u_V.i_V) / (|u| |i|)`. An item that never occurred (a new one) is taken to have
    `n_i = new_item_count`; one with nothing to encode has no prior and the score 0 (our choice).
    `item_score_vectors` computes all of it.

    Contrastive training with candidates drawn from a batch learns `log p(i|u) - log q(i)`, with `q` how often an item
    is drawn (Yi et al., 2019). The prior puts `log q` back: weight 1 is what theory says. It is ours that the weight
    is chosen on validation, like the other options (`choose_score_options`).

    Attributes:
        popularity_prior: weight `w` of the prior, at least 0; 0: none.
        cross_terms: compare the sums of text and image vectors; False: text with text and image with image alone.
        view_weights: weight of each modality's similarity, `{"text": .., "image": ..}`, at least 0 and not both 0;
            only their ratio matters.
        temperature: `tau` that the embedder was trained with (of a schedule its last value), so that the weight of
            the prior means the same for every embedder.
        new_item_count: `n_i` of items without training interactions, at least 0. With 0 they have no prior, so that
            they stand behind all that suit the user as well and sell; `choose_score_options` takes the count of an
            average item (`average_count`).

    Raises:
        ValueError: a number out of range, or view weights of other names.
    """

    popularity_prior: float = 0.0
    cross_terms: bool = True
    view_weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 1.0))
    temperature: float = 0.05
    new_item_count: float = 0.0

    def __post_init__(self) -> None:
        if not _is_number(self.popularity_prior) or not 0 <= self.popularity_prior < math.inf:
            raise ValueError(f"`popularity_prior` must be a number of at least 0, got {self.popularity_prior!r}.")
        if not isinstance(self.cross_terms, bool):
            raise ValueError(f"`cross_terms` must be True or False, got {self.cross_terms!r}.")
        weights = self.view_weights
        if not isinstance(weights, Mapping) or set(weights) != set(MODALITIES):
            raise ValueError(f'`view_weights` must be {{"text": .., "image": ..}}, got {weights!r}.')
        if not all(_is_number(weight) and 0 <= weight < math.inf for weight in weights.values()):
            raise ValueError(f"`view_weights` must be numbers of at least 0, got {weights!r}.")
        if not any(weights.values()):
            raise ValueError("`view_weights` must not be 0 for text and image alike: nothing would be compared.")
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be a number above 0, got {self.temperature!r}.")
        if not _is_number(self.new_item_count) or not 0 <= self.new_item_count < math.inf:
            raise ValueError(f"`new_item_count` must be a number of at least 0, got {self.new_item_count!r}.")
        object.__setattr__(self, "popularity_prior", float(self.popularity_prior))
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "new_item_count", float(self.new_item_count))
        object.__setattr__(self, "view_weights", {name: float(weights[name]) for name in MODALITIES})

    @property
    def is_bare(self) -> bool:
        """Whether the score is the bare cosine of the view `both`."""
        return self.popularity_prior == 0 and not self.needs_parts

    @property
    def needs_parts(self) -> bool:
        """Whether text and image vectors are needed apart; else the view `both` suffices."""
        return not self.cross_terms or self.view_weights["text"] != self.view_weights["image"]

    @property
    def views(self) -> tuple[str, ...]:
        """The views that scores are made of."""
        return MODALITIES if self.needs_parts else ("both",)

    def view_map(self, width: int) -> np.ndarray:
        """The matrix `M` that makes of the two views what is normalised and compared: `c = M [v_T, v_V]`.

        Args:
            width: `d`, of a text or an image vector.

        Returns:
            `(d, 2 d)` with cross terms, `(2 d, 2 d)` without, float32: the roots of the view weights, and zeros.
        """
        text, image = (np.sqrt(self.view_weights[name]) * np.eye(width) for name in MODALITIES)
        none = np.zeros_like(text)
        blocks = [[text, image]] if self.cross_terms else [[text, none], [none, image]]
        return np.block(blocks).astype(np.float32)

    def prior(self, counts: ArrayLike) -> np.ndarray:
        """What the popularity prior adds to each item's score: `temperature * popularity_prior * log(1 + n_i)`.

        Args:
            counts: `(n_items,)` how often each item occurs in training, at least 0; 0: a new item.

        Returns:
            `(n_items,)` float64.

        Raises:
            ValueError: counts of another shape, or below 0, or not finite.
        """
        numbers = np.asarray(counts, dtype=np.float64)
        if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers < 0).any():
            raise ValueError(
                f"`counts` must hold one number of at least 0 per item, got shape {numbers.shape}"
                + (f" with a minimum of {numbers.min()}." if numbers.size else ".")
            )
        numbers = np.where(numbers == 0, self.new_item_count, numbers)
        return self.temperature * self.popularity_prior * np.log1p(numbers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoreOptions:
        """Read what `to_dict` gave; what is left out has its default.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        known = [one.name for one in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"`score_options` must hold some of {known}, got {unknown}; update vlm2rec-hf?")
        return cls(**values)

    @classmethod
    def of(cls, config: Any, chosen: ScoreOptions | None = None) -> ScoreOptions:
        """An embedder's own options, or those `chosen` in their place.

        Args:
            config: a `VLM2RecConfig`; its `score_options` is `None` in embedders saved without any.
            chosen: given for this call.

        Raises:
            ValueError: options that are none, or that internal fusion has no parts for.
        """
        options = chosen if chosen is not None else cls.from_dict(getattr(config, "score_options", None) or {})
        if options.needs_parts and config.fusion == "internal":
            raise ValueError(
                "`score_options` without cross terms or with view weights need text and image vectors that add up, "
                "and the embedder has internal fusion; leave both at their defaults."
            )
        return options


def average_count(counts: ArrayLike) -> float:
    """The count whose prior is the mean prior of the items that occur in training: `exp(mean log(1 + n_i)) - 1`.

    What is expected of an item that nobody could have chosen yet, if it is an item like the others (our choice).

    Args:
        counts: `(n_items,)` how often each item occurs in training.

    Returns:
        The geometric mean (of `1 + n_i`) over the items that occur; 0 where none does.
    """
    numbers = np.asarray(counts, dtype=np.float64)
    known = numbers[numbers > 0]
    return float(np.expm1(np.log1p(known).mean())) if known.size else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
