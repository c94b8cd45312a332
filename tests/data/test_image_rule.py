"""One rule for images: the same file shows the same, as bytes, as PIL, in a table; metadata never costs pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vlm2rec_hf import RecDataset
from vlm2rec_hf.data.images import check_image_header, decode_image, try_decode_image
from vlm2rec_hf.data.png_chunks import without_metadata
from vlm2rec_hf.modeling.items_vlm2rec import as_item, as_rgb
from vlm2rec_hf.sentence_transformers import as_documents

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"),
    "WEBP": ("L", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "RGBA"),
}


@st.composite
def files(draw):
    """An image file of any format, mode, orientation and transparency, its size not square."""
    name = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[name]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    depth = {"I;16": 2**16, "I;16B": 2**16, "I": draw(st.sampled_from([200, 2**16]))}.get(mode)
    if depth:
        image = Image.fromarray(rng.integers(0, depth, (5, 7)).astype(np.uint16 if mode != "I" else np.int32))
        image = image if mode != "I;16B" else Image.frombytes("I;16B", image.size, np.asarray(image, ">u2").tobytes())
    elif mode == "F":
        image = Image.fromarray(rng.random((5, 7), dtype=np.float32) * draw(st.sampled_from([1, 255, 9000])))
    else:
        image = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8), "RGBA").convert(mode)
    options = {}
    if mode == "P" and draw(st.booleans()):
        options["transparency"] = int(rng.integers(0, 8))
    if name != "GIF" and draw(st.booleans()):
        exif = Image.Exif()
        exif[274] = draw(st.integers(0, 9))
        options["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def pixels(image):
    assert image.mode == "RGB" and not image.info and not image.getexif()
    return np.asarray(image)


@given(files())
@settings(max_examples=150, deadline=None)
def test_every_way_shows_the_same(data):
    shown = pixels(decode_image(data))
    opened = Image.open(io.BytesIO(data))
    ways = [as_item(opened), as_item({"image": Image.open(io.BytesIO(data)), "text": "a"})]
    ways += [*as_documents([Image.open(io.BytesIO(data))])]
    for way in ways:
        assert np.array_equal(pixels(way["image"]), shown)
    assert np.array_equal(pixels(decode_image(Image.open(io.BytesIO(data)))), shown)
    copied = Image.open(io.BytesIO(data)).copy()
    copied.load()
    if opened.format != "TIFF":  # Pillow turns these while it loads and a copy forgets that it did
        assert np.array_equal(pixels(as_rgb(copied)), shown)
    assert np.array_equal(pixels(as_rgb(as_rgb(copied))), pixels(as_rgb(copied)))  # twice as once


def test_a_table_of_any_form_shows_the_same():
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("RGBA", (6, 4), (200, 10, 10, 90))
    image.putpixel((0, 0), (0, 0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    events = [{"user_id": "u", "item_id": i, "timestamp": i} for i in range(3)]
    forms = [data, Image.open(io.BytesIO(data)), {"bytes": data, "path": "x.png"}]
    dataset = RecDataset.from_tables(events, [{"item_id": i, "image": form} for i, form in enumerate(forms)])
    shown = [pixels(dataset.item(i)["image"]) for i in range(3)]
    assert shown[0].shape == (6, 4, 3)
    assert np.array_equal(shown[0], shown[1]) and np.array_equal(shown[0], shown[2])
    assert shown[0][0, -1].tolist() == [255, 255, 255]  # the clear corner, turned to the right, on white


def test_what_the_rule_makes_of_kinds():
    clear = Image.new("P", (2, 1))
    clear.putpalette([0, 0, 0, 10, 200, 30])
    clear.putpixel((1, 0), 1)
    clear.info["transparency"] = 0
    assert pixels(as_rgb(clear))[0].tolist() == [[255, 255, 255], [10, 200, 30]]
    assert clear.info == {"transparency": 0}  # the given image stays as it was
    clear.info["transparency"] = 200  # beyond the palette: a fault of metadata
    assert pixels(as_rgb(clear))[0].tolist() == [[0, 0, 0], [10, 200, 30]]
    deep = Image.fromarray(np.array([[0, 1000, 32768, 65535]], dtype=np.uint16))
    assert pixels(as_rgb(deep))[0, :, 0].tolist() == [0, 4, 128, 255]
    deep.info["transparency"] = 1000
    assert pixels(as_rgb(deep))[0, :, 0].tolist() == [0, 255, 128, 255]
    assert pixels(as_rgb(Image.new("La", (1, 1), (0, 0)))).tolist() == [[[255, 255, 255]]]
    broken = Image.fromarray(np.array([[np.nan, np.inf, -1, 0.5]], dtype=np.float32))
    assert pixels(as_rgb(broken))[0, :, 0].tolist() == [0, 0, 0, 128]
    assert pixels(as_rgb(Image.new("RGB", (3, 2), "red"))).shape == (2, 3, 3)


def chunk(kind, data, crc=None):
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def with_chunk(data, extra, late=False):
    """A PNG file with another chunk, before or behind its pixels."""
    place = len(data) - 12 if late else 33
    return data[:place] + extra + data[place:]


HUGE = zlib.compress(bytes(2**21))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"comment\0\0" + HUGE),
        chunk(b"iTXt", b"comment\0\1\0\0\0" + HUGE),
        chunk(b"iCCP", b"profile\0\0" + HUGE),
        chunk(b"tEXt", b"comment\0words", crc=7),
        chunk(b"iCCP", b"profile\0\0no zlib at all"),
        chunk(b"gAMA", b"", crc=1),
        chunk(b"tRNS", b"\0", crc=1),
        chunk(b"eXIf", b"MM\0*", crc=1),
        chunk(b"pHYs", b"\0"),
        chunk(b"cHRM", b"\0\0\0"),
    ],
)
def test_metadata_never_costs_sound_pixels(extra, late):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = with_chunk(buffer.getvalue(), extra, late)
    assert check_image_header(data) is None
    assert np.array_equal(pixels(decode_image(data)), np.asarray(image))


def test_orientation_and_transparency_outlive_a_huge_text():
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    text = PngImagePlugin.PngInfo()
    text.add_text("words", "x" * 2**21, zip=True)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif, pnginfo=text)
    assert pixels(decode_image(buffer.getvalue())).shape == (6, 4, 3)
    assert pixels(decode_image(buffer.getvalue())).min() == 255


def test_damaged_pixels_stay_damaged():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), "red").save(buffer, "PNG")
    data = buffer.getvalue()
    assert without_metadata(data) is None and without_metadata(b"\xff\xd8\xff") is None
    broken = with_chunk(data[:50] + b"?" + data[51:], chunk(b"zTXt", b"comment\0\0" + HUGE))
    assert try_decode_image(broken)[1] in ("truncated", "corrupt")
    cut = with_chunk(data, chunk(b"tEXt", b"a\0b"))[:60]
    assert try_decode_image(cut)[1] == "truncated"
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, "PNG")
    assert try_decode_image(with_chunk(bomb.getvalue(), chunk(b"tEXt", b"a", crc=1)))[1] == "too_many_pixels"
