"""A title that looks like an address or a path is a text: nothing is fetched, nothing is opened."""

import builtins
import io
import socket
import warnings
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sentence_transformers import SentenceTransformer

from vlm2rec_hf.sentence_transformers.model_files import as_documents, as_queries, write_sentence_transformer_files

from ..conftest import make_image

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp", ".mp4", ".mp3", "")


class Trapped(AssertionError):
    """Something was fetched or opened."""


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    model, processor = tiny()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config)
    transformer = SentenceTransformer(str(folder), device="cpu")
    transformer.encode(["once, so that every lazy import is done", make_image(0)])
    return model, processor, transformer


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """An existing image, whose path is a title below."""
    path = tmp_path_factory.mktemp("secret") / "picture.png"
    make_image(8).save(path)
    return str(path)


@contextmanager
def traps():
    """Everything that could fetch or open raises inside."""

    opened = open

    def trap(*args, **kwargs):
        if args[:1] == ("/proc/meminfo",):  # how much memory is free decides how much is encoded at once
            return opened(*args, **kwargs)
        raise Trapped(f"touched {args!r}")

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (socket, "create_connection"), (socket.socket, "connect"), (socket.socket, "connect_ex"),
            (socket, "getaddrinfo"), (builtins, "open"), (io, "open"), (Image, "open"),
        ):  # fmt: skip
            patch.setattr(owner, name, trap)
        yield


# A string with an unpaired surrogate is no text that a tokenizer can read, and no title either.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
titles = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from(["http://", "https://evil/", "ftp://", "file:///", "data:image/png;base64,"]), words, st.sampled_from(ENDINGS)),  # noqa: E501
    st.builds("{}{}{}".format, st.sampled_from(["/etc/", "./", "../../", "~/", "C:\\"]), words, st.sampled_from(ENDINGS)),  # noqa: E501
    st.sampled_from(["https://evil/x.jpg", "/etc/hostname.png", "/etc/hostname", "https://youtu.be/x", "SECRET"]),
).filter(lambda title: bool(title.strip()))  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=st.lists(titles, min_size=1, max_size=3))
def test_no_title_is_ever_fetched_or_opened(loaded, secret, batch):
    model, processor, transformer = loaded
    batch = [secret if title == "SECRET" else title for title in batch]
    with traps():
        expected = model.encode_items(batch, processor).both
        user = model.encode_histories([batch], processor).both
        assert processor(items=batch)["has_text"].all() and not processor(items=batch)["has_image"].any()
        assert processor(histories=[batch])["has_text"].all()
    with warnings.catch_warnings(), traps():
        warnings.simplefilter("ignore", UserWarning)
        forms = (batch, [{"text": title} for title in batch], as_documents(batch), [*batch, make_image(1)])
        for form in forms:
            assert abs(transformer.encode(form, convert_to_tensor=True)[: len(batch)] - expected).max() < 1e-5
        assert abs(transformer.encode(batch[0], convert_to_tensor=True) - expected[0]).max() < 1e-5
        assert abs(transformer.encode_query(as_queries([batch]), convert_to_tensor=True) - user).max() < 1e-5


def test_the_traps_catch(secret):
    for touch in (
        lambda: open(secret),
        lambda: Image.open(secret),
        lambda: socket.create_connection(("localhost", 9)),
        lambda: socket.socket().connect(("localhost", 9)),
    ):
        with pytest.raises(Trapped), traps():
            touch()


def test_a_bare_string_taken_for_an_image_is_told_about(loaded, secret):
    _, _, transformer = loaded
    for title in ("https://evil/x.jpg", secret):
        with pytest.warns(UserWarning, match="was taken for a text"):
            transformer.encode(title)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            transformer.encode({"text": title})
            transformer.encode(as_documents([title]))


def test_an_image_may_not_be_named_by_a_string(loaded, secret):
    _, _, transformer = loaded
    with pytest.raises(ValueError, match="`image` of a message must be a PIL"), traps():
        transformer.encode([{"text": "tent", "image": secret}])
    message = {"role": "user", "content": [{"type": "image", "url": "https://evil/x.jpg"}]}
    with pytest.raises(ValueError, match="`content` of a message holds a part"), traps():
        transformer.encode([[message]])
