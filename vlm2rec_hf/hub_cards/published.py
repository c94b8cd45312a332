"""What a publication made, to be read by programs and, as text, by people."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version of a repo. As text it is one line for people.

    Attributes:
        repo_id: `owner/name`.
        oid: the commit that holds the version, 40 hexadecimal digits; as `revision=` it gives this version for ever.
        url: the page of the version.
        tag: the tag that names it, if one was asked for.
        new: whether there was anything to commit.
        ignored: what was asked for and had no effect, in words.
    """

    repo_id: str
    oid: str
    url: str
    tag: str | None
    new: bool = field(compare=False)
    ignored: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        done = "Published" if self.new else "Already published"
        return f"{done}: {self.url} (commit {self.oid[:8]}, {self._check()})"

    def notes(self) -> list[str]:
        """Sentences about what a person may not expect."""
        return [] if self.ignored is None else [f"{self.ignored}."]

    def _check(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PublishedModel(Published):
    """A version of a model.

    Attributes:
        files: what was published.
        left_out: what of the folder was not.
        removed: files of an earlier version that this one deleted.
        difference: largest difference between the folder's vectors and those of the published copy, `None` where
            that was not checked.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    removed: tuple[str, ...]
    difference: float | None

    def notes(self) -> list[str]:
        """What of the folder stayed there, what of the earlier version went, and what had no effect."""
        sentences = [("Left out", self.left_out), ("Removed of the earlier version", self.removed)]
        return [f"{what}: {', '.join(names)}." for what, names in sentences if names] + super().notes()

    def _check(self) -> str:
        return "not checked" if self.difference is None else f"vectors equal to {self.difference:.1e}"


@dataclass(frozen=True, kw_only=True)
class PublishedDataset(Published):
    """A version of a dataset.

    Attributes:
        fingerprint: of the content.
    """

    fingerprint: str

    def _check(self) -> str:
        return f"fingerprint {self.fingerprint[:16]}"
