"""A generated shop whose users choose by what the text says, what the image shows, and what both show.

Every product has a *kind* (tent, mug, ...; named in the title **and** visible), a *brand* (only in the title) and a
*colour* (only in the image). A user has a favourite brand and a favourite colour, and moves from kind to kind along
a shop-wide habit ("after a tent, a lamp"). The probability of every next choice is therefore known exactly, so a
report can print what a perfect model would score (the oracle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..columns import DESCRIPTION, IMAGE, ITEM_ID, TEXT, TIMESTAMP, TITLE, USER_ID
from .demo_images import COLOURS, SHAPES, draw_product
from .sequences import Examples

if TYPE_CHECKING:
    from .dataset import RecDataset

BRANDS = ("Alpina", "Bergfeld", "Corvane", "Dunmore", "Eastwick", "Falkirk", "Gronland", "Halden")
MIN_ITEMS, MAX_ITEMS = 60, 100_000


@dataclass(frozen=True)
class DemoShopConfig:
    """Size and taste of a demo shop.

    Args:
        n_items: products, 60 to 100,000.
        n_users: users; by default between 400 and 40,000, growing with `n_items`.
        history: choices per user (every user makes between this and half as many).
        kind_weight: log-odds of the kind that habit makes likely (seen in text and image).
        brand_weight: log-odds of the user's favourite brand (named only in the text).
        colour_weight: log-odds of the user's favourite colour (visible only in the image).
        missing_images: share of products without an image.
        seed: of everything.

    Raises:
        ValueError: a size out of range.
    """

    n_items: int = 600
    n_users: int | None = None
    history: int = 12
    kind_weight: float = 3.0
    brand_weight: float = 2.5
    colour_weight: float = 2.5
    missing_images: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not MIN_ITEMS <= self.n_items <= MAX_ITEMS:
            raise ValueError(f"`n_items` must lie between {MIN_ITEMS} and {MAX_ITEMS}, got {self.n_items}.")
        if self.n_users is not None and self.n_users < 1:
            raise ValueError(f"`n_users` must be at least 1, got {self.n_users}.")
        if not 4 <= self.history <= self.n_items // 2:
            raise ValueError(f"`history` must lie between 4 and n_items / 2, got {self.history}.")
        if not 0 <= self.missing_images < 1:
            raise ValueError(f"`missing_images` must lie in [0, 1), got {self.missing_images}.")

    @property
    def users(self) -> int:
        """Number of users generated."""
        return self.n_users if self.n_users is not None else int(np.clip(2 * self.n_items, 400, 40_000))


class DemoShop:
    """The generated shop: tables, and the true choice probabilities.

    Args:
        config: size and taste; a `DemoShopConfig`.

    Attributes:
        kind, brand, colour: `(n_items,)` attribute index of each product.
        favourite_brand, favourite_colour: `(n_users,)` taste of each user.
        habit: `(kinds, kinds)` log-odds of the next kind given the last one.
    """

    def __init__(self, config: DemoShopConfig | None = None) -> None:
        self.config = config = config or DemoShopConfig()
        rng = np.random.default_rng([config.seed, 17])
        n, users = config.n_items, config.users
        combos = len(SHAPES) * len(BRANDS) * len(COLOURS)
        # Cover the combinations evenly in a shuffled order: small shops stay balanced.
        order = np.concatenate([rng.permutation(combos) for _ in range(-(-n // combos))])[:n]
        self.kind, rest = order // (len(BRANDS) * len(COLOURS)), order % (len(BRANDS) * len(COLOURS))
        self.brand, self.colour = rest // len(COLOURS), rest % len(COLOURS)
        self.log_appeal = rng.normal(0.0, 0.4, size=n)
        self.has_image = rng.random(n) >= config.missing_images
        follows = rng.permutation(len(SHAPES))
        self.habit = np.zeros((len(SHAPES), len(SHAPES)))
        self.habit[np.arange(len(SHAPES)), follows] = config.kind_weight
        self.habit[np.arange(len(SHAPES)), np.roll(follows, 1)] += config.kind_weight / 2
        self.favourite_brand = rng.integers(len(BRANDS), size=users)
        self.favourite_colour = rng.integers(len(COLOURS), size=users)
        self._choices = self._simulate(rng)

    def _log_odds(self, users: np.ndarray, last_kind: np.ndarray) -> np.ndarray:
        """Log-odds of every product for `users` whose last choice was of `last_kind` (-1: none): `(b, n_items)`."""
        habit = np.where(last_kind[:, None] >= 0, self.habit[last_kind][:, self.kind], 0.0)
        brand = self.config.brand_weight * (self.favourite_brand[users][:, None] == self.brand)
        colour = self.config.colour_weight * (self.favourite_colour[users][:, None] == self.colour)
        return self.log_appeal + habit + brand + colour

    def _simulate(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Every user's choices: sampled without repeats from the true probabilities (Gumbel trick)."""
        config = self.config
        lengths = rng.integers(config.history // 2, config.history + 1, size=config.users)
        out = np.full((config.users, config.history), -1)
        block = max(1, 4_000_000 // config.n_items)
        for start in range(0, config.users, block):
            rows = np.arange(start, min(config.users, start + block))
            seen = np.zeros((len(rows), config.n_items), dtype=bool)
            last = np.full(len(rows), -1)
            for step in range(config.history):
                odds = self._log_odds(rows, last) + rng.gumbel(size=seen.shape)
                odds[seen] = -np.inf
                chosen = odds.argmax(1)
                seen[np.arange(len(rows)), chosen] = True
                out[rows, step] = chosen
                last = self.kind[chosen]
        return [row[:length] for row, length in zip(out, lengths, strict=True)]

    def title(self, index: int) -> str:
        """What the shop writes under a product: brand, kind and a number; never the colour."""
        return f"{BRANDS[self.brand[index]]} {SHAPES[self.kind[index]]} {index}"

    def description(self, index: int) -> str:
        """What a caption of the image with its title would say; only warm-up targets read it."""
        return f"{COLOUR_NAMES[self.colour[index]]} {SHAPES[self.kind[index]]} by {BRANDS[self.brand[index]]}"

    def items(self) -> list[dict[str, Any]]:
        """The item table, images rendered."""
        rows = []
        for index in range(self.config.n_items):
            rng = np.random.default_rng([self.config.seed, 29, index])
            image = draw_product(SHAPES[self.kind[index]], COLOUR_NAMES[self.colour[index]], rng)
            rows.append({
                ITEM_ID: f"p{index:06d}",
                TITLE: self.title(index),
                TEXT: self.title(index),
                DESCRIPTION: self.description(index),
                IMAGE: {"bytes": image, "path": f"p{index:06d}.png"} if self.has_image[index] else None,
            })  # fmt: skip
        return rows

    def interactions(self) -> list[dict[str, Any]]:
        """The interaction table; users act in rounds, so the time stamps of different users interleave."""
        users = self.config.users
        return [
            {USER_ID: f"u{user:06d}", ITEM_ID: f"p{item:06d}", TIMESTAMP: 1_700_000_000 + 60 * (step * users + user)}
            for user, items in enumerate(self._choices)
            for step, item in enumerate(items)
        ]

    def dataset(self) -> RecDataset:
        """The shop as a `RecDataset` with a leave-one-out split."""
        from .dataset import RecDataset

        name = f"demo-shop-{self.config.n_items}"
        return RecDataset.from_tables(self.interactions(), self.items(), name=name).leave_one_out()

    def oracle(self, examples: Examples) -> Oracle:
        """A scorer that knows the true choice probabilities, to be ranked like any model.

        Args:
            examples: from this shop's dataset.
        """
        return Oracle(self, examples)


class Oracle:
    """The true log-odds of every product at each example; no model can rank better on average.

    Args:
        shop: where the truth lies.
        examples: from the shop's dataset.
    """

    def __init__(self, shop: DemoShop, examples: Examples) -> None:
        self._shop = shop
        self._users = np.array([int(str(user)[1:]) for user in examples.user_ids])
        self._items = np.array([int(str(item)[1:]) for item in examples.sequences.item_ids])
        last = [self._items[examples.history(i)[-1]] for i in range(len(examples))]
        self._last_kind = shop.kind[np.array(last, dtype=np.int64)]

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self._items)

    def __len__(self) -> int:
        return len(self._users)

    def scores(self, rows: slice) -> np.ndarray:
        """Log-odds of all items for some examples: `(rows, n_items)` float64."""
        return self._shop._log_odds(self._users[rows], self._last_kind[rows])[:, self._items]


COLOUR_NAMES = tuple(COLOURS)


def make_demo_shop(n_items: int = 600, seed: int = 0, **options: Any) -> DemoShop:
    """Generate a demo shop; `options` are those of `DemoShopConfig`."""
    return DemoShop(DemoShopConfig(n_items=n_items, seed=seed, **options))
