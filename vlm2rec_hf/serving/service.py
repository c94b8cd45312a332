"""What the routes call: requests to jobs, answers to plain data, errors to statuses."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.images import ImageError, decode_image
from ..recommending.shop_lists import ListOptions, ShopRecommendation
from ..recommending.together import Question
from ..recommending.view_weights import parse_weights
from .batching import Batcher, Overloaded, TooLate
from .click_log import ClickLog
from .engine import Delete, Engine, Known, Put
from .guard import Refused
from .metrics import Metrics
from .schemas import ClicksRequest, HowToList, NewItem, PutItemRequest, RecommendRequest, SimilarRequest
from .settings import MEGABYTE, ServerSettings
from .user_clicks import UserClicks

CLICKS_AT_ONCE = 1024
MEASURED_EVERY_S = 5.0
Plain = dict[str, Any]


class Service:
    """A recommender, users' clicks, and the queues in front of both.

    Args:
        engine: the recommender.
        settings: limits.
        metrics: counts.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics) -> None:
        self.engine, self.settings, self.metrics = engine, settings, metrics
        log = None if settings.state is None else ClickLog(settings.state)
        self.clicks = UserClicks(settings.history_memory_mb * MEGABYTE, settings.history_length, log)

    def start(self) -> None:
        """Begin; inside the event loop."""
        limit = self.settings.queue_size
        self._jobs = Batcher(
            self.engine.work,
            size=self.settings.max_batch,
            wait_s=self.settings.batch_wait_ms / 1000,
            queue_size=limit,
            on_batch=self.metrics.batches.observe,
        )
        self._clicks = Batcher(self.clicks.add, size=CLICKS_AT_ONCE, queue_size=limit)
        self._jobs.start()
        self._clicks.start()
        self._watch = asyncio.create_task(self._measure_again())

    async def _measure_again(self) -> None:
        while True:
            self.measure()
            await asyncio.sleep(MEASURED_EVERY_S)

    async def close(self) -> None:
        """Finish what was accepted."""
        self._watch.cancel()
        await self._jobs.close()
        await self._clicks.close()

    # ---- lists

    async def recommend(self, request: RecommendRequest) -> Plain:
        """The best items after a history."""
        history = await self._entries(request.history)
        options = self._options(request, exclude_seen=request.exclude_seen, explain=request.explain)
        return await self._list(Question(history, options))

    async def similar(self, request: SimilarRequest) -> Plain:
        """The items most like one."""
        return await self._list(Question(await self._entries([request.item]), self._options(request), similar=True))

    async def for_user(self, user: str, k: int, texts: Mapping[str, Any]) -> Plain:
        """The best items for a user: after what the dataset knows of them, and their clicks.

        Args:
            user: any id; one who is not known gets the most popular items.
            k: how many.
            texts: further options as they stand in an address: `filter` (JSON), `view_weights`, ...
        """
        values = {name: value for name, value in texts.items() if value is not None}
        try:
            if "filter" in values:
                values["filter"] = json.loads(values["filter"])
            if "view_weights" in values:
                values["view_weights"] = parse_weights(values["view_weights"])
            if "filter" in values and not isinstance(values["filter"], dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            text = f"`filter` must be a JSON object, and `view_weights` text=1,image=0.5: {error}"
            raise Refused(422, text) from None
        self._check_k(k)
        options = ListOptions(k=k, on_unknown="skip", **values)
        history = await asyncio.to_thread(lambda: [*self.engine.history_of(user), *self.clicks.of(user)])
        return await self._list(Question(history, options, user=user))

    # ---- changes

    async def put(self, item_id: str, request: PutItemRequest) -> Plain:
        """Put an item in; on the disk when this returns."""
        self._check_keeps()
        taken = sorted({"item_id", "text", "image"} & set(request.metadata))
        if taken:
            raise Refused(422, f"`metadata` must not hold {taken[0]!r}; it has a place of its own.")
        await self._ask(Put({"item_id": item_id, **request.metadata, **await self._new_item(request)}))
        return {"item_id": item_id}

    async def delete(self, item_ids: Sequence[str]) -> Plain:
        """Take items out; on the disk when this returns."""
        self._check_keeps()
        return {"deleted": await self._ask(Delete(item_ids))}

    async def click(self, user: str, request: ClicksRequest) -> Plain:
        """Keep a user's clicks; with a state folder on the disk when this returns."""
        known = await self._known(request.items)
        kept = [item for item in request.items if item in known]
        lost = len(request.items) - len(kept)
        if lost and request.on_unknown == "error":
            one = next(item for item in request.items if item not in known)
            raise Refused(
                422, f"`items` names {lost} that are not known, such as {one!r:.100}; put them into the index first, "
                'or leave them out with "on_unknown": "skip".'
            )  # fmt: skip
        length = len(self.clicks.of(user)) if not kept else await self._through(self._clicks, (user, kept))
        self.metrics.clicks.inc(len(kept))
        return {"length": length, "n_unknown": lost}

    # ---- state

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._jobs.alive and self._clicks.alive

    def health(self) -> Plain:
        """What is served."""
        index, status = self.engine.followed, "ok" if self.ready else "ending"
        items = len(self.engine.index)
        return {"status": status, "items": items, "version": index.version, "superseded": index.superseded}

    def measure(self) -> None:
        """Take the numbers of now, which other processes of this server tell, too."""
        items = len(self.engine.index)
        self.metrics.set({
            **self.metrics.watch.state(items), "items": items, "superseded": self.engine.followed.superseded,
            "users_with_clicks": len(self.clicks), "users_forgotten": self.clicks.forgotten,
            "torn_lines": self.clicks.torn, "histories_kept": self.engine.histories_kept,
        })  # fmt: skip
        self.metrics.waiting.set(self._jobs.waiting + self._clicks.waiting)

    # ---- parts

    async def _list(self, question: Question) -> Plain:
        found: ShopRecommendation = await self._ask(question)
        self.metrics.listed("similar" if question.similar else found.source, found.item_ids, found.scores)
        return answer_of(found)

    async def _known(self, item_ids: Sequence[str]) -> set[str]:
        """Which items can be clicked, those that another process just put in among them."""
        known = await asyncio.to_thread(self.engine.known, item_ids)
        if self.engine.follows_in_turn and not known.issuperset(item_ids):
            return set(await self._ask(Known(item_ids)))
        return known

    async def _ask(self, job: Any) -> Any:
        return await self._through(self._jobs, job)

    async def _through(self, batcher: Batcher, job: Any) -> Any:
        try:
            return await batcher.ask(job, self.settings.deadline_s)
        except Overloaded:
            raise Refused(503, "The server is busy; come again.", "queue") from None
        except TooLate:
            detail = f"No answer within {self.settings.deadline_s:g} s; a change may be made all the same."
            raise Refused(504, detail, "deadline") from None
        except (ValueError, TypeError) as error:
            raise Refused(422, str(error)) from None

    def _options(self, request: HowToList, **more: Any) -> ListOptions:
        self._check_k(request.k)
        names = ("k", "candidates", "filter", "group_by", "diversity", "view_weights", "on_unknown")
        return ListOptions(**{name: getattr(request, name) for name in names}, **more)

    def _check_k(self, k: int) -> None:
        if k > self.settings.max_list:
            raise Refused(422, f"`k` must be at most {self.settings.max_list}, got {k}.")

    def _check_keeps(self) -> None:
        if not self.engine.keeps_changes:
            raise Refused(409, "This server has no index on a disk; start it with one (`--index`) to change items.")

    async def _entries(self, entries: Sequence[str | NewItem]) -> list[Any]:
        new = sum(not isinstance(entry, str) for entry in entries)
        if new > self.settings.max_new_items:
            raise Refused(422, f"At most {self.settings.max_new_items} new items are taken at once, got {new}.")
        return [entry if isinstance(entry, str) else await self._new_item(entry) for entry in entries]

    async def _new_item(self, item: NewItem) -> Plain:
        """Text and decoded image, as far as they are given."""
        found: Plain = {} if item.text is None else {"text": item.text}
        if item.image is not None:
            limit = self.settings.max_image_mb * MEGABYTE
            if len(item.image) * 3 / 4 > limit + 2:
                raise Refused(413, f"`image` is larger than {self.settings.max_image_mb:g} MB.")
            found["image"] = await asyncio.to_thread(_decoded, item.image, self.settings.max_pixels)
        return found


def answer_of(found: ShopRecommendation) -> Plain:
    """A list as plain data."""
    items = []
    rows = zip(found.item_ids, found.scores, found.titles, found.metadata, strict=True)
    for place, (item_id, score, title, metadata) in enumerate(rows):
        one: Plain = {"item_id": item_id, "score": float(score), "title": title, "metadata": _finite(metadata)}
        if found.reasons is not None:
            reason = found.reasons[place].to_dict()
            one["reason"] = {name: reason[name] for name in ("shares", "pulls", "reason")}
        items.append(one)
    return {"items": items, "source": found.source, "n_unknown": found.n_unknown}


def _finite(metadata: Mapping[str, Any]) -> Plain:
    """JSON has neither NaN nor infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metadata.items()
    }


def _decoded(text: str, max_pixels: int) -> Any:
    try:
        return decode_image(base64.b64decode(text, validate=True), max_pixels)
    except (binascii.Error, ValueError) as error:
        what = error.reason if isinstance(error, ImageError) else "no base64"
        raise Refused(422, f"`image` cannot be read: {what}. It must be an image file in base64.") from None
