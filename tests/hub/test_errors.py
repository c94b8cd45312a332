"""Names that cannot be used are refused; answers of a Hub become words, and its wishes to wait are heard."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import HfApi

from vlm2rec_hf.hub.errors import (
    LONGEST_OBEYED,
    check_repo_id,
    check_tag,
    explained,
    is_connection_trouble,
    is_worth_another_try,
    wait_asked_for,
)

REPO = "org/thing"


@pytest.mark.parametrize(
    "tag", [None, "v1.0", "1", "2024-01-31", "20240131", "abcdef0", "mainline", "release/v1", "pr/1"]
)
def test_tags_that_may_be(tag):
    check_tag(tag)


@pytest.mark.parametrize(
    "tag", ["main", "Main", "HEAD", "head", "a" * 40, "0123456789ABCDEF" * 4, "refs/heads/x", "refs/tags/v1", "refs"]
)
def test_a_tag_that_could_mean_a_branch_or_a_commit_is_refused(tag):
    with pytest.raises(ValueError, match=f"`tag` '{tag}' would be taken for a branch or a commit; use"):
        check_tag(tag)


def test_repo_ids_have_an_owner():
    check_repo_id("org/name")
    for wrong, says in (("name", "names no owner"), ("a/b/c", "is no Hub id"), ("a/b c", "is no Hub id")):
        with pytest.raises(ValueError, match=f"`repo_id` '{wrong}' {says}"):
            check_repo_id(wrong)


def asked(hub, status, **headers):
    """The error of `explained` for an answer of a real server to the real client."""
    hub.fail("GET", "/api/models/", status, times=100, headers=headers)
    with pytest.raises((ValueError, ConnectionError)) as caught, explained(REPO):
        HfApi().model_info(REPO)
    hub.faults.clear()
    return caught.value


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"Retry-After": "7"}, 7.0), ({"Retry-After": " 0 "}, 0.0), ({"Retry-After": "soon"}, None),
     ({"Retry-After": "\u00b2"}, None), ({"Retry-After": "-3"}, None)],
)  # fmt: skip
def test_the_wait_a_hub_asks_for(hub, no_waiting, headers, seconds):
    error = asked(hub, 429, **headers)
    assert isinstance(error, ConnectionError) and wait_asked_for(error) == seconds
    assert is_worth_another_try(error)
    assert str(error).endswith(
        "try again later." if seconds is None else f"in {seconds:.0f} seconds, for which the Hub asks."
    )


def test_a_wait_may_be_a_date(hub, no_waiting):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    error = asked(hub, 503, **{"Retry-After": soon})
    assert 60 < wait_asked_for(error) <= 90 and is_worth_another_try(error)
    past = asked(hub, 503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert wait_asked_for(past) == 0.0


def test_too_long_a_wait_is_told_and_not_waited_for(hub, no_waiting):
    assert is_worth_another_try(asked(hub, 429, **{"Retry-After": f"{LONGEST_OBEYED:.0f}"}))
    error = asked(hub, 429, **{"Retry-After": "86400"})
    assert not is_worth_another_try(error) and "in 86400 seconds" in str(error)


def test_a_refusal_is_not_worth_another_try_and_shows_no_token(hub, no_waiting):
    hub.fail("GET", "/api/models/", 400, message=f"bad {hub.token} and hf_jwt_eyJhbGciOiJFZERTQSJ9.abc-d")
    with pytest.raises(
        ValueError, match=r"The Hub refused to read 'org/thing' \(400\): .*bad hf_\*\*\* and"
    ) as caught:
        with explained(REPO):
            HfApi().model_info(REPO)
    assert not is_worth_another_try(caught.value) and "eyJ" not in str(caught.value)


def test_other_errors_pass_as_they_are():
    with pytest.raises(ZeroDivisionError), explained(REPO):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="mine"), explained(REPO):
        raise RuntimeError("mine")


def test_trouble_on_the_line_is_known_also_one_step_behind():
    assert is_connection_trouble(TimeoutError()) and is_connection_trouble(ConnectionResetError())
    behind = RuntimeError("upload")
    assert not is_connection_trouble(behind) and not is_connection_trouble(OSError("disk"))
    behind.__cause__ = ConnectionResetError()
    assert is_connection_trouble(behind)


def test_a_gated_repo_says_so(hub):
    hub.fail("GET", "/api/models/", 403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(ValueError, match="`repo_id` 'org/thing' is gated: ask for access"), explained(REPO):
        HfApi().model_info(REPO)
