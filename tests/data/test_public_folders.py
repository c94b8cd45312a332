"""Folders of public datasets in the shape in which their authors ship them, with broken lines among the others."""

import io

import pytest
from PIL import Image

from vlm2rec_hf.data.readers import load_recsys, read_hm, read_microlens, read_movielens, read_pixelrec


def image(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())


def events_of(dataset):
    return [(r["user_id"], r["item_id"], r["timestamp"]) for r in dataset.interactions]


def bad_lines(dataset):
    return [(r["table"], r["number"], r["row"]) for r in dataset.quarantine if r["reason"] == "bad_line"]


def texts(dataset):
    return {row: dataset.item(index)["text"] for index, row in enumerate(dataset.item_ids)}


# ---- H&M

ARTICLES = [
    "article_id,product_code,prod_name,product_type_no,product_type_name,colour_group_name,graphical_appearance_name,"
    "department_name,detail_desc",
    '0108775015,0108775,Strap top,253,Vest top,Black,Solid,Jersey Basic,"Jersey top, with ""narrow"" straps."',
    "0108775044,0108775,Strap top,253,Vest top,White,Solid,Jersey Basic,",
    "0110065001,0110065,broken",
    "0110065002,0110065,Never bought,306,Bra,Black,Solid,Clean Lingerie,Soft.",
    "../../secret,1,Outside,1,Bra,Black,Solid,Clean Lingerie,Soft.",
]
DAY = 86_400
MONDAY = 1_600_646_400  # 2020-09-21


@pytest.fixture
def hm(tmp_path):
    lines = [
        "t_dat,customer_id,article_id,price,sales_channel_id",
        "2020-09-21,b0,0108775044,0.0169,2",
        "2020-09-21,b0,0108775015,0.0169,2",
        "2020-09-20,a1,0108775015,0.0169,2",
        "",
        "2020-09-21,b0,0108775044",
        "2020-09-22,a1,0108775044,0.0169,1",
        "2020-09-22,a1,0108775015,0.0169,1",
        "2020-09-22,a1,0108775044,0.0169,1",
        "2020-19-22,a1,0108775044,0.0169,1",
        "2020-09-22,,0108775044,0.0169,1",
        "2020-09-22,a1,0999999999,0.0169,1",
        "2020-09-19,b0,../../secret,0.0169,1",
    ]
    (tmp_path / "transactions_train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "articles.csv").write_text("\n".join(ARTICLES) + "\n")
    image(tmp_path / "images" / "010" / "0108775015.jpg")
    image(tmp_path / "images" / "0108775044.jpg")  # not where it belongs
    image(tmp_path.parent / "secret.jpg")
    return tmp_path


def test_hm_keeps_the_order_of_the_file_within_a_day(hm):
    dataset = load_recsys(hm, name="hm")
    assert events_of(dataset) == [
        ("a1", "0108775015", MONDAY - DAY), ("a1", "0108775044", MONDAY + DAY), ("a1", "0108775044", MONDAY + DAY),
        ("a1", "0108775015", MONDAY + DAY),
        ("b0", "../../secret", MONDAY - 2 * DAY), ("b0", "0108775044", MONDAY), ("b0", "0108775015", MONDAY),
    ]  # fmt: skip
    assert dataset.timestamp_unit == "s" and dataset.coverage.noted["duplicates"] == 1
    assert load_recsys(hm, duplicates="quarantine").coverage.quarantined["duplicate"] == 1
    assert dataset.temporal_split(test_from="2020-09-22").coverage.splits["test"] == 3


def test_hm_rows_without_a_customer_do_not_order_those_of_others(hm):
    pairs = ["a,001", ",044", "a,015", "a,044", "b,015", ",015", "b,044"]
    lines = [f"2020-09-21,{pair.replace(',', ',0108775')},1,1" for pair in pairs]
    text = "\n".join(["t_dat,customer_id,article_id,price,sales_channel_id", *lines])
    (hm / "transactions_train.csv").write_text(text)
    dataset = load_recsys(hm, unknown_items="keep")
    assert [item[-3:] for _, item, _ in events_of(dataset)] == ["001", "015", "044", "015", "044"]


def test_hm_counts_every_line_it_cannot_use(hm):
    dataset = load_recsys(hm)
    assert bad_lines(dataset) == [
        ("transactions_train.csv", 6, "2020-09-21,b0,0108775044"), ("articles.csv", 4, "0110065001,0110065,broken")
    ]  # fmt: skip
    assert dataset.coverage.quarantined == {"bad_line": 2, "bad_timestamp": 1, "null_user_id": 1, "unknown_item": 1}
    (row,) = [r for r in dataset.quarantine if r["reason"] == "bad_timestamp"]
    assert "2020-19-22" in row["row"]


def test_hm_articles_have_text_counts_and_the_images_of_their_folder(hm):
    dataset = load_recsys(hm)
    assert dataset.item_ids.tolist() == ["0108775015", "0108775044", "../../secret"]
    assert dataset.items["n_ratings"][:] == [3, 4, 1]  # lines, usable or not
    assert texts(dataset)["0108775015"] == (
        'Strap top. Vest top, Black, Solid, Jersey Basic. Jersey top, with "narrow" straps.'
    )
    assert texts(dataset)["0108775044"] == "Strap top. Vest top, White, Solid, Jersey Basic."
    assert dataset.item_has_image.tolist() == [True, False, False]
    assert read_hm(hm, all_items=True).item_ids.tolist()[2] == "0110065002"
    image(hm / "small" / "010" / "0108775044.jpg")
    assert read_hm(hm, image_folder=hm / "small").item_has_image.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="`image_folder` .* is not a folder"):
        read_hm(hm, image_folder=hm / "none")


def test_hm_without_a_column_or_file_is_named(hm):
    (hm / "transactions_train.csv").write_text("t_dat,customer_id,article\n2020-09-21,b,1\n")
    with pytest.raises(ValueError, match=r"transactions_train.csv has no columns \['article_id'\]"):
        load_recsys(hm)
    (hm / "articles.csv").unlink()
    with pytest.raises(ValueError, match="has no transactions_train.csv and articles.csv"):
        read_hm(hm)


# ---- MicroLens


def test_microlens_pairs_titles_and_covers(tmp_path):
    pairs = ["user,item,timestamp", "1,12,1583378629552", "1,7,1583378629551", "2,7", "2,9,1583378629560", "2,12,soon"]
    (tmp_path / "MicroLens-50k_pairs.csv").write_text("\n".join(pairs))
    (tmp_path / "MicroLens-50k_pairs.tsv").write_text("1\t12 7\n2\t9\n")
    (tmp_path / "MicroLens-50k_titles.csv").write_text('item,title\n7,"Cats, ""dogs"""\n\nno title\n12,Plain\n')
    image(tmp_path / "MicroLens-50k_covers" / "9.jpg")
    dataset = load_recsys(tmp_path)
    assert dataset.name == "MicroLens-50k" and dataset.timestamp_unit == "ms"
    assert events_of(dataset) == [("1", "7", 1583378629551), ("1", "12", 1583378629552), ("2", "9", 1583378629560)]
    assert texts(dataset) == {"7": 'Cats, "dogs"', "12": "Plain", "9": None}
    assert bad_lines(dataset) == [("MicroLens-50k_pairs.csv", 4, "2,7"), ("MicroLens-50k_titles.csv", 4, "no title")]
    assert dataset.coverage.quarantined == {"bad_line": 2, "bad_timestamp": 1}
    assert dataset.item_has_image.tolist() == [False, False, True]


def test_microlens_sequences_and_titles_without_header(tmp_path):
    (tmp_path / "MicroLens-100k_pairs.tsv").write_bytes(
        b"\xef\xbb\xbf1\t12 7 12\n2 9\n\n3\t\n4\t9\nZo\xeb\t9\nZo\xe9\t9\n"
    )
    titles = b'item 5,x\n12,"Wow", he said, twice\n7,"She said ""no"""\n9,\n4,Caf\xe9\n'
    (tmp_path / "MicroLens-100k_title_en.csv").write_bytes(titles)
    dataset = load_recsys(tmp_path)
    assert [(r["user_id"], r["item_id"], r["position"]) for r in dataset.interactions] == [
        ("1", "12", 0), ("1", "7", 1), ("1", "12", 2), ("4", "9", 0)
    ]  # fmt: skip
    assert texts(dataset) == {"12": '"Wow", he said, twice', "7": 'She said "no"', "9": None}
    assert [number for _, number, _ in bad_lines(dataset)] == [2, 4, 6, 7, 1, 5]
    (tmp_path / "MicroLens-1M_pairs.tsv").write_text("1\t2\n")
    with pytest.raises(ValueError, match=r"must hold one NAME_pairs.csv \(or .tsv\), it has \['MicroLens-100k_pairs"):
        read_microlens(tmp_path)


# ---- PixelRec


def pixelrec(folder, names):
    interactions, items = names
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = ["item_id,user_id,timestamp", "i2,u1,1600000002", "i1,u1,1600000001", "i1,u1", "i3,u2,1600000003"]
    (folder / interactions / "Pixel200K.csv").write_text("\n".join(rows))
    head = "item_id,view_number,comment_number,title,tag,description"
    more = ['i1,10,2,"Cat, ""naps""",pets,"Two\nlines."', "i2,10,2,Rain,,", "i4,10"]
    (folder / items / "Pixel200K.csv").write_text("\n".join([head, *more]))
    return folder


@pytest.mark.parametrize(
    "names", [("pixelrec_interaction", "pixelrec_iteminfo"), ("dataset", "information"), ("interactions", "items")]
)
def test_pixelrec_folders_are_told_apart_by_their_columns(tmp_path, names):
    folder = pixelrec(tmp_path, names)
    image(folder / "cover" / "i2.jpg")
    dataset = load_recsys(folder, unknown_items="keep")
    assert dataset.name == "Pixel200K" and dataset.timestamp_unit == "s"
    assert events_of(dataset) == [("u1", "i1", 1600000001), ("u1", "i2", 1600000002), ("u2", "i3", 1600000003)]
    assert texts(dataset) == {"i1": 'Cat, "naps". pets. Two\nlines.', "i2": "Rain.", "i3": None}
    assert dataset.item_has_image.tolist() == [False, True, False]
    assert dataset.items["view_number"][:] == [10, 10, None]
    assert [row for _, _, row in bad_lines(dataset)] == ["i1,u1", "i4,10"]
    assert load_recsys(folder).coverage.quarantined == {"bad_line": 2, "unknown_item": 1}


def test_pixelrec_subsets_are_named_and_share_their_items(tmp_path):
    folder = pixelrec(tmp_path, ("dataset", "information"))
    (folder / "information" / "Pixel200K.csv").rename(folder / "item_info.csv")
    (folder / "dataset" / "Pixel1M.csv").write_text("item_id,user_id,timestamp\ni2,u9,2021-03-04 05:06:07\n")
    with pytest.raises(ValueError, match=r"`subset` None must name one .*\['Pixel1M', 'Pixel200K'\]"):
        load_recsys(folder)
    dataset = read_pixelrec(folder, subset="Pixel1M")
    assert events_of(dataset) == [("u9", "i2", 1614834367000)] and texts(dataset)["i2"] == "Rain."
    (folder / "item_info.csv").unlink()
    assert texts(read_pixelrec(folder, subset="Pixel1M")) == {"i2": None}


# ---- MovieLens


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_movielens_in_either_encoding_with_colons_in_its_titles(tmp_path, encoding, mark):
    (tmp_path / "ratings.dat").write_bytes(mark + b"1::1::5::2\n1::2::5::1\n1::3::5::3\n1::4\n")
    movies = ["1::Léon::Director's cut:::Action|Drama", "2:::Él (1953)::Drama", "3::broken", "3::Ran::"]
    (tmp_path / "movies.dat").write_bytes(mark + "\r\n".join(movies).encode(encoding))
    dataset = load_recsys(tmp_path)
    assert texts(dataset) == {
        "1": "Léon::Director's cut:. Genres: Action, Drama.", "2": ":Él (1953). Genres: Drama.", "3": "Ran"
    }  # fmt: skip
    assert [(table, number) for table, number, _ in bad_lines(dataset)] == [("ratings.dat", 4), ("movies.dat", 3)]
    assert [item for _, item, _ in events_of(dataset)] == ["2", "1", "3"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_movielens_csv_in_either_encoding_and_with_dates(tmp_path, encoding):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,2004-09-10\n1,29,3,2004-09-09\n")
    movies = 'movieId,title,genres\n2,"Él, the (1953)",Drama\n29,Ran,(no genres listed)\n'
    (tmp_path / "movies.csv").write_bytes(movies.encode(encoding))
    dataset = read_movielens(tmp_path)
    assert texts(dataset) == {"2": "Él, the (1953). Genres: Drama.", "29": "Ran"}
    assert events_of(dataset)[0] == ("1", "29", 1094688000000) and dataset.timestamp_unit == "ms"
