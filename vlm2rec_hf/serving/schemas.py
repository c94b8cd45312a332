"""Requests and answers, as OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00]*$", examples=["p000012"])]
MAX_IDS = 10_000
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4IScHAAK2AQU0pnWqAAAAAElFTkSuQmCC"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewItem(_Strict):
    """An item that need not be in the index: a text, an image, or both. For embedders and PixRec models."""

    text: str | None = Field(None, max_length=20_000, examples=["Alpina tent green"])
    image: str | None = Field(
        None, description="An image file (JPEG, PNG, WebP, ...) in base64. Never a path or an address.",
        examples=[_PIXEL],
    )  # fmt: skip


class HowToList(_Strict):
    """How a list is made."""

    k: int = Field(10, ge=1, description="How many items; fewer come back where there are fewer.")
    candidates: list[Id] | None = Field(None, max_length=MAX_IDS, description="Ids to choose among.")
    filter: dict[str, Any] | None = Field(
        None, description="Condition on the items' metadata.", examples=[{"item_id": {"!=": "p000012"}}]
    )
    group_by: str | None = Field(None, max_length=512, description="Column of which each value is listed once.")
    diversity: float = Field(0.0, ge=0, le=1, description="Choose items that are less like those above them.")
    view_weights: dict[Literal["text", "image"], Annotated[float, Field(ge=0)]] | None = Field(
        None, description="Of external fusion: weights of the views.", examples=[{"text": 1, "image": 0.5}]
    )
    on_unknown: Literal["error", "skip"] = Field("error", description="Unknown ids: refuse, or leave out and count.")


class RecommendRequest(HowToList):
    """What next after a history?"""

    history: list[Id | NewItem] = Field(
        description="Oldest first; ids and new items. An empty one gets the most popular items.",
        max_length=MAX_IDS, examples=[["p000012", {"text": "Alpina tent green"}]],
    )  # fmt: skip
    exclude_seen: bool = Field(True, description="Leave out items of the history.")
    explain: bool = Field(False, description="Say for each item why it has its score.")


class SimilarRequest(HowToList):
    """What is like an item?"""

    item: Id | NewItem = Field(examples=["p000012"])


class PutItemRequest(NewItem):
    """An item for the index. Of an item that is there, metadata alone may be given: what is not named stays."""

    metadata: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, max_length=200, description="Values of the index's columns.", examples=[{}]
    )


class ClicksRequest(_Strict):
    """Items that a user clicked, oldest first."""

    items: list[Id] = Field(min_length=1, max_length=1000, examples=[["p000012", "p000034"]])
    on_unknown: Literal["error", "skip"] = Field("error", description="Unknown ids: refuse, or leave out and count.")


class PullAnswer(BaseModel):
    """What one item of the history does for a score."""

    place: int
    item_id: str | None
    without: float | None
    pull: float


class ReasonAnswer(BaseModel):
    """Why an item has its score: parts that add up to it, and what of the history pulls most."""

    shares: dict[str, float]
    pulls: list[PullAnswer]
    reason: str


class ListedItem(BaseModel):
    """One item of a list."""

    item_id: str
    score: float
    title: str | None
    metadata: dict[str, Any]
    reason: ReasonAnswer | None = None


class ListAnswer(BaseModel):
    """A list, best first."""

    items: list[ListedItem]
    source: str = Field(description="`model`, or `popularity` where nothing of the history is known.")
    n_unknown: int = Field(description="Ids of the history that were left out.")


class ItemAnswer(BaseModel):
    """The item is in the index, on the disk."""

    item_id: str


class DeletedAnswer(BaseModel):
    """The items are out of the index, on the disk."""

    deleted: int


class ClicksAnswer(BaseModel):
    """The clicks are kept; with a state folder, on the disk."""

    length: int = Field(description="Clicks of this user that are kept now.")
    n_unknown: int


class HealthAnswer(BaseModel):
    """How the server is."""

    status: str
    items: int | None = None
    version: str | None = None
    superseded: bool = Field(False, description="The index was switched to another model; restart to load that one.")


class ErrorAnswer(BaseModel):
    """What is wrong, in words that may be shown to who asked."""

    detail: str
