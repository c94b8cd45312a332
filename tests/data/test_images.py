import io
import pickle
import warnings

import numpy as np
import pytest
from PIL import Image

from vlm2rec_hf.data.images import (
    ImageError,
    ImagePath,
    check_image_header,
    decode_image,
    encode_png,
    try_decode_image,
)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(width=40, height=30):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_four_accepted_forms_give_the_same_pixels(tmp_path):
    data = encoded(noise())
    path = tmp_path / "p.png"
    path.write_bytes(data)
    forms = [noise(), data, bytearray(data), {"bytes": data, "path": "elsewhere.png"}, ImagePath(path)]
    for form in forms:
        image = decode_image(form)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(noise()))


def test_plain_strings_are_never_opened(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(encoded(noise()))
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a))
    for value in (str(path), "https://example.org/p.png", f"file://{path}", {"bytes": str(path), "path": None}):
        with pytest.raises(ImageError, match="never opened or fetched") as caught:
            decode_image(value)
        assert caught.value.reason == "unsupported_type"
    assert opened == []


def test_the_path_of_a_mapping_is_only_a_label(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(encoded(noise()))
    assert try_decode_image({"bytes": None, "path": str(path)}) == (None, "no_bytes")
    assert try_decode_image({"path": str(path)}) == (None, "no_bytes")


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown upright, the image is portrait
    assert decode_image(encoded(image, "JPEG", exif=exif)).size == (20, 40)
    assert decode_image(encoded(image, "JPEG")).size == (40, 20)


def test_broken_exif_keeps_the_image():
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00\x03"
    assert decode_image(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (40, 20)


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    rgba.putpixel((0, 0), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 128))
    image = decode_image(encoded(rgba))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((3, 3)) == (255, 255, 255)
    assert abs(image.getpixel((1, 0))[0] - 127) <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.putpixel((1, 0), 1)
    image = decode_image(encoded(palette, transparency=0))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == (10, 200, 30)


def test_cmyk_grey_and_one_bit_become_rgb():
    assert decode_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")).getpixel((4, 4)) == (255, 255, 255)
    assert decode_image(encoded(Image.new("L", (2, 2), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert decode_image(encoded(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 128, 255]
    dark = np.array([[0, 1000]], dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(dark), "TIFF")))[0, :, 0].tolist() == [0, 4]


def test_float_images_are_scaled():
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)
    moved = Image.open(io.BytesIO(data))
    moved.seek(2)
    assert decode_image(moved).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_truncated_files_cost_only_the_image(format):
    data = encoded(noise(200, 200), format)
    image, reason = try_decode_image(data[: len(data) // 2])
    assert image is None
    assert reason in ("truncated", "corrupt")
    if format in ("JPEG", "PNG"):
        assert reason == "truncated"
        assert check_image_header(data[: len(data) // 2]) is None  # the header alone does not show it


def test_every_cut_and_many_flips_are_survived():
    data = encoded(noise(), "PNG")
    rng = np.random.default_rng(1)
    for cut in range(0, len(data), 37):
        image, reason = try_decode_image(data[:cut])
        assert (image is None) != (reason is None)
    for _ in range(200):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            broken[place] = rng.integers(0, 256)
        image, reason = try_decode_image(bytes(broken))
        assert (image is None) != (reason is None)


def test_the_pixel_cap_is_read_from_the_header(monkeypatch):
    data = encoded(Image.new("1", (2000, 2000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert try_decode_image(data, max_pixels=3_999_999) == (None, "too_many_pixels")
    assert check_image_header(data, max_pixels=3_999_999) == "too_many_pixels"
    assert check_image_header(data, max_pixels=4_000_000) is None


def test_a_decompression_bomb_is_refused():
    # 400 million pixels that pack into some kilobytes.
    data = encoded(Image.new("1", (20_000, 20_000)), optimize=False)
    assert len(data) < 100_000
    assert try_decode_image(data) == (None, "too_many_pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        medium = encoded(Image.new("1", (12_000, 10_000)))
        assert try_decode_image(medium) == (None, "too_many_pixels")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (12, "unsupported_type"),
        (None, "unsupported_type"),
        (ImagePath("/no/such/file.png"), "unreadable_path"),
    ],
)
def test_reasons(value, reason):
    image, result = try_decode_image(value)
    assert image is None
    assert result == reason


def test_too_many_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr("vlm2rec_hf.data.images.MAX_BYTES", 10)
    assert try_decode_image(b"x" * 11) == (None, "too_many_bytes")
    path = tmp_path / "big.png"
    path.write_bytes(b"x" * 11)
    assert try_decode_image(ImagePath(path)) == (None, "too_many_bytes")


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "detail")))
    assert error.reason == "corrupt"
    assert "detail" in str(error)


def test_encode_png_round_trip():
    assert np.array_equal(np.asarray(decode_image(encode_png(noise()))), np.asarray(noise()))
