"""What is done with a batch of jobs: items are put in and taken out, then questions answered, in few passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ..recommending.head_side import HeadSide
from ..recommending.recommender import Recommender, user_history
from ..recommending.together import Question, answer_together, each


@dataclass(frozen=True)
class Put:
    """An item to put into the index: `{"item_id", "text", "image", **metadata}`."""

    row: Mapping[str, Any]


@dataclass(frozen=True)
class Delete:
    """Items to take out."""

    item_ids: Sequence[str]


@dataclass(frozen=True)
class Known:
    """Which of some items can stand in a history, after a look at what other processes changed."""

    item_ids: Sequence[str]


class Engine:
    """A recommender as a server asks it; one thread at a time.

    Args:
        recommender: any.
        kv_memory_bytes: of embedders: for what was read of users' histories; 0: nothing of it is kept.
    """

    def __init__(self, recommender: Recommender, kv_memory_bytes: float = 0) -> None:
        self.recommender = recommender
        side: Any = recommender.side
        if hasattr(side, "keep_histories"):
            side.keep_histories(kv_memory_bytes)

    @property
    def index(self) -> Any:
        """The index that lists come from."""
        return self.recommender.index

    @property
    def followed(self) -> Any:
        """The index on the disk that changes come from: of a head over its embedder's index that one."""
        return self.recommender.side.followed

    @property
    def histories_kept(self) -> int:
        """Users whose histories need not be read again."""
        return len(getattr(self.recommender.side, "kept", None) or ())

    @property
    def keeps_changes(self) -> bool:
        """Whether items that are put in are on the disk."""
        return self.index.path is not None

    def warm_up(self) -> None:
        """Have the items' vectors and one list ready before the first request."""
        side: Any = self.recommender.side
        side.follow()
        self.recommender.recommend([[]], k=1)
        some = [item for item in side.index.item_ids()[:50] if item in side.knows([item])][:1]
        if some:
            try:
                self.recommender.recommend([some], k=1)
            except ValueError:
                pass  # an item without text and image says nothing; the first request warms the model up

    def work(self, jobs: list[Any]) -> list[Any]:
        """Do jobs; changes come before questions.

        Args:
            jobs: `Put`, `Delete`, `Known` and `Question`, in any mixture.

        Returns:
            Per job: True, how many were deleted, a set of ids, a list; or the error of this job alone, of any kind.
        """
        results: dict[int, Any] = {}
        for places, rows in _without_repeats([(i, job.row) for i, job in enumerate(jobs) if isinstance(job, Put)]):
            results |= dict(zip(places, each(self._put, rows), strict=True))
        for kind, do in ((Delete, self.recommender.delete), (Known, self._known_anew)):
            for i, job in enumerate(jobs):
                if isinstance(job, kind):
                    results[i] = _alone(do, job.item_ids)
        questions = [(i, job) for i, job in enumerate(jobs) if isinstance(job, Question)]
        if questions:
            answers = each(partial(answer_together, self.recommender), [question for _, question in questions])
            results |= {i: answer for (i, _), answer in zip(questions, answers, strict=True)}
        return [results[i] for i in range(len(jobs))]

    def known(self, item_ids: Sequence[str]) -> set[str]:
        """Which items can stand in a history; cheap, for any thread.

        Where some are missing, it looks at what other processes changed, unless the side `follows_in_turn`.
        """
        known = self._known(item_ids)
        return known if self.follows_in_turn or known.issuperset(item_ids) else self._known_anew(item_ids)

    @property
    def follows_in_turn(self) -> bool:
        """Whether only a job (`Known`) may look at what others changed: a head that takes items is changed by it."""
        side = self.recommender.side
        return isinstance(side, HeadSide) and side.takes_items

    def history_of(self, user: str) -> list[str]:
        """What the dataset knows of a user; nothing for one whom it does not have."""
        dataset = self.recommender.dataset
        if dataset is None or user not in self._users:
            return []
        return user_history(dataset, user)

    @cached_property
    def _users(self) -> set[str]:
        dataset = self.recommender.dataset
        return set() if dataset is None else {str(user) for user in dataset.sequences().user_ids}

    def _known(self, item_ids: Sequence[str]) -> set[str]:
        return set(self.recommender.side.knows(item_ids)) | self.index.has(item_ids)

    def _known_anew(self, item_ids: Sequence[str]) -> set[str]:
        self.recommender.side.follow()
        return self._known(item_ids)

    def _put(self, rows: list[Mapping[str, Any]]) -> list[bool]:
        self.recommender.upsert(rows)
        return [True] * len(rows)


def _alone(do: Callable[[Sequence[str]], Any], item_ids: Sequence[str]) -> Any:
    """What a function gives for some ids, or its error."""
    return each(lambda lists: [do(ids) for ids in lists], [item_ids])[0]


def _without_repeats(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[list[int], list[Mapping[str, Any]]]]:
    """Rows in their order, in groups that name each item once."""
    groups: list[tuple[list[int], list[Mapping[str, Any]]]] = []
    times: dict[Any, int] = {}
    for place, row in rows:
        before = times.get(row["item_id"], 0)
        times[row["item_id"]] = before + 1
        if before == len(groups):
            groups.append(([], []))
        groups[before][0].append(place)
        groups[before][1].append(row)
    return groups
