import gzip
import io
import json
import shutil

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import (
    load_recsys,
    read_amazon_2014,
    read_amazon_2023,
    read_delimited,
    read_hub,
    read_movielens,
    read_parquet,
    read_recbole,
)
from vlm2rec_hf.data.readers.file_tables import read_csv_bytes
from vlm2rec_hf.data.readers.jsonl import read_json_lines


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, format="PNG")
    return buffer.getvalue()


def events_of(dataset):
    return [(r["user_id"], r["item_id"], r["timestamp"]) for r in dataset.interactions]


def bad_lines(dataset):
    return [(r["table"], r["number"]) for r in dataset.quarantine if r["reason"] == "bad_line"]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


# ---- parquet


def write_parquet(folder, shards=1):
    rows = [{"user_id": f"u{i % 3}", "item_id": f"i{i % 4}", "timestamp": i} for i in range(30)]
    items = pa.Table.from_pylist(
        [{"item_id": f"i{i}", "title": f"t{i}", "image": {"bytes": png(), "path": None}} for i in range(4)]
    )
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    if shards == 1:
        pq.write_table(table, folder / "interactions.parquet", row_group_size=7)
        pq.write_table(items, folder / "items.parquet")
        return
    for name, whole in (("interactions", table), ("items", items)):
        (folder / name).mkdir()
        for shard in range(shards):
            size = -(-len(whole) // shards)
            pq.write_table(whole.slice(shard * size, size), folder / name / f"train-{shard:05d}.parquet")


def test_parquet_files_and_shards_are_the_same(tmp_path):
    write_parquet(tmp_path / "one")
    write_parquet(tmp_path / "many", shards=3)
    one, many = load_recsys(tmp_path / "one"), load_recsys(str(tmp_path / "many"))
    assert one.fingerprint == many.fingerprint
    assert one.n_interactions == 30
    assert one.name == "one"
    assert one.item(3)["image"].size == (6, 4)
    with pytest.raises(ValueError, match="has no interactions.parquet"):
        read_parquet(tmp_path)


# ---- CSV, TSV, JSON lines


def test_csv_with_mapping_images_and_bad_lines(tmp_path):
    (tmp_path / "log.csv").write_text('who,what,when\n007,1,10\n007,2,11,extra\n8,"a,b",12\n8,1\n8,2,13\n')
    (tmp_path / "things.csv").write_text('what,name,file\n1,One,sub/../one.png\n2,Two,/etc/passwd\n"a,b",Both,\n')
    images = tmp_path / "images"
    images.mkdir()
    (images / "one.png").write_bytes(png())
    (images / "2.png").write_bytes(png("blue"))
    mapping = {"who": "user_id", "what": "item_id", "when": "timestamp", "name": "title"}
    options = {"column_mapping": mapping, "image_folder": images}
    dataset = read_delimited(tmp_path / "log.csv", tmp_path / "things.csv", image_column="file", **options)
    assert events_of(dataset) == [("007", "1", 10), ("8", "a,b", 12), ("8", "2", 13)]
    assert bad_lines(dataset) == [("log.csv", 3), ("log.csv", 5)]
    assert dataset.quarantine[0]["row"] == "007,2,11,extra"
    assert dataset.item(0)["text"] == "One"
    assert dataset.item_has_image.tolist() == [True, False, False]
    by_id = read_delimited(tmp_path / "log.csv", tmp_path / "things.csv", **options)
    assert by_id.item_has_image.tolist() == [False, True, False]


@pytest.mark.parametrize("log", [".csv", ".ndjson", ".parquet", "/"])
def test_the_items_are_found_in_any_format_beside_the_interactions(tmp_path, log):
    rows = [{"user_id": "a", "item_id": item, "timestamp": n} for n, item in enumerate("yx")]
    items = [{"item_id": item, "title": f"T\xe9 {item}"} for item in "xy"]
    write_as(rows, tmp_path, "interactions", log)
    for ending in (".csv", ".tsv.gz", ".jsonl", ".ndjson", ".json", ".json.gz", ".parquet", "/"):
        write_as(items, tmp_path, "items", ending)
        dataset = load_recsys(tmp_path)
        assert events_of(dataset) == [("a", "y", 0), ("a", "x", 1)], ending
        assert dataset.items["title"][:] == ["T\xe9 x", "T\xe9 y"], ending
        if ending == ".json":
            write_as(items, tmp_path, "items", ".csv")
            with pytest.raises(ValueError, match=r"`items` of the folder .* any of \['items.csv', 'items.json'\]"):
                load_recsys(tmp_path)
            (tmp_path / "items.csv").unlink()
        path = tmp_path / f"items{ending}"
        path.unlink() if path.is_file() else shutil.rmtree(path)
    write_as(rows, tmp_path, "interactions", ".jsonl.gz")
    with pytest.raises(ValueError, match="`interactions` of the folder .* can be any of"):
        load_recsys(tmp_path)


def test_items_of_text_beside_parquet_keep_their_words_and_bad_lines(tmp_path):
    table = pa.table({"user_id": ["a"], "item_id": ["007"], "timestamp": [1]})
    pq.write_table(table, tmp_path / "interactions.parquet")
    (tmp_path / "items.csv").write_bytes("item_id;title\n007;1984\n8\n8;Caf\xe9\n".encode("latin-1"))
    dataset = load_recsys(tmp_path, encoding="latin-1")
    assert dataset.items["title"][:] == ["1984", "Caf\xe9"] and bad_lines(dataset) == [("items.csv", 3)]


def write_as(rows, folder, table, ending):
    """The rows as a file `table` with this ending, or (`/`) as two parquet shards in a folder of that name."""
    frame = pd.DataFrame(rows)
    if ending == "/":
        (folder / table).mkdir()
        for number, part in ((10, frame[1:]), (9, frame[:1])):
            part.to_parquet(folder / table / f"part-{number}.parquet")
    elif ending == ".parquet":
        frame.to_parquet(folder / f"{table}{ending}")
    elif "sv" in ending:
        frame.to_csv(folder / f"{table}{ending}", index=False, sep="\t" if "tsv" in ending else ",")
    else:
        frame.to_json(folder / f"{table}{ending}", orient="records", lines=True)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz"])
def test_every_ending_gives_the_same_interactions(tmp_path, ending):
    frame = pd.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "timestamp": [3, 1, 2]})
    if "jsonl" in ending:
        text = frame.to_json(orient="records", lines=True)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in ending else ",")
    data = text.encode()
    (tmp_path / f"interactions{ending}").write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    for dataset in (load_recsys(tmp_path), load_recsys(tmp_path / f"interactions{ending}")):
        assert events_of(dataset) == [("a", "y", 1), ("a", "x", 3), ("b", "x", 2)]


def test_bad_json_lines_are_kept_with_their_number(tmp_path):
    lines = [
        '{"user_id":"a","item_id":"x","timestamp":1}',
        "",
        "not json",
        "[1]",
        '{"user_id":"b","item_id":"x","timestamp":2}',
    ]
    (tmp_path / "interactions.jsonl").write_text("\n".join(lines))
    dataset = load_recsys(tmp_path)
    assert dataset.n_interactions == 2
    assert bad_lines(dataset) == [("interactions.jsonl", 3), ("interactions.jsonl", 4)]
    assert dataset.quarantine[0]["row"] == "not json"


def test_blank_lines_count_in_the_numbers_of_bad_lines(tmp_path):
    rows = [f"u,i{n},{n}\n" if n % 7 else "\r\n" for n in range(200_000)]  # more than one block of the parser
    rows[150_001] = "broken\n"
    (tmp_path / "interactions.csv").write_bytes("".join(["user_id,item_id,timestamp\n", *rows]).encode())
    dataset = load_recsys(tmp_path)
    assert dataset.n_interactions == sum(n % 7 > 0 for n in range(200_000)) - 1
    assert bad_lines(dataset) == [("interactions.csv", 150_003)]


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (b"user_id,item_id,timestamp\ra,x,1\ra,y\r\ra,z,3\rb", [3, 6]),
        (b"user_id,item_id,timestamp\r\na,x,1\r\r\na,y\ra,z,3\nb", [4, 6]),
        (b'user_id,item_id,timestamp,note\na,x,1,"\r\nb\r\r""c""\n"\na,y\na,z,3,\n"b\nc"\n', [7, 9]),
        (b'user_id,item_id,timestamp,note\na,x,1,"Oh\n\na,z,3,"\'O\'"\nb', [5]),
    ],
)
def test_bad_lines_have_the_number_of_an_editor_whatever_ends_them(tmp_path, text, bad):
    (tmp_path / "interactions.csv").write_bytes(text)
    for encoding in ("utf-8", "utf-16"):
        dataset = load_recsys(tmp_path, encoding=encoding)
        assert events_of(dataset) == [("a", "x", 1), ("a", "z", 3)]
        assert bad_lines(dataset) == [("interactions.csv", number) for number in bad]
        (tmp_path / "interactions.csv").write_bytes(text.decode().encode("utf-16"))


def test_a_text_of_several_lines_with_quotes_of_its_own_stays_one():
    text = b'item_id,title,price\nx,"Two\nlines, say ""three"" ",4\ny,"One\n"line" here",5\n"z" ,"Z\n" ,6\n'
    table, bad = read_csv_bytes(text, "items", separator=",", ids=["item_id"], texts=[])
    assert [len(column) for column in table.columns] == [3, 3, 3] and not bad.num_rows
    assert table["title"].to_pylist() == ['Two\nlines, say "three" ', 'One\nline" here"', "Z\n "]


@pytest.mark.parametrize(
    ("separator", "lines", "titles"),
    [
        ("\t", ['x|"Heroes', "y|Y", 'z|"Z"'], ['"Heroes', "Y", "Z"]),
        ("\t", ['x|"Heroes', 'y|TV 15"', "z|Z"], ['"Heroes', 'TV 15"', "Z"]),
        ("\t", ['x|"Two', 'lines"', 'y|"', 'z|"" Z'], ["Two\nlines", '"', " Z"]),
        (",", ['x|"Heroes', 'y|"Y| he said"', 'z|""'], ['"Heroes', "Y| he said", None]),
        (",", ['x|"Heroes', "y|Y", "z|Z"], ['"Heroes', "Y", "Z"]),
        (",", ['x|"Heroes', 'y|"Y"', "z|Z"], ['"Heroes', "Y", "Z"]),
        (",", ['x|"One|', 'two ""3"""', "y|Y", 'z|"Z'], ['One|\ntwo "3"', "Y", '"Z']),
    ],
)
def test_a_quote_that_nothing_closes_takes_no_rows_into_its_field(caplog, separator, lines, titles):
    lines, titles = ([text and text.replace("|", separator) for text in texts] for texts in (lines, titles))
    text = "\n".join([f"item_id{separator}title", *lines, ""])
    table, bad = read_csv_bytes(text.encode(), "items", separator=separator, ids=["item_id"], texts=[])
    assert table.to_pydict() == {"item_id": ["x", "y", "z"], "title": titles} and not bad.num_rows
    assert "the first in line" in caplog.text


def test_wrong_encoding_and_missing_files_are_explained(tmp_path):
    (tmp_path / "interactions.csv").write_bytes("user_id,item_id,timestamp\nJos\xe9,x,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="`encoding`"):
        load_recsys(tmp_path)
    assert load_recsys(tmp_path, encoding="latin-1").sequences().user_ids.tolist() == ["José"]
    with pytest.raises(ValueError, match="there is no file"):
        read_delimited(tmp_path / "other.csv")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_delimited(tmp_path / "empty.csv")
    with pytest.raises(ValueError, match="`image_folder` .* is not a folder"):
        read_delimited(
            tmp_path / "interactions.csv",
            tmp_path / "interactions.csv",
            encoding="latin-1",
            image_folder=tmp_path / "no",
        )


def test_json_lines_have_an_encoding_and_what_is_in_another_is_set_aside(tmp_path):
    users = ["Andr\xe9", "Andr\xe8", "Zo\xeb"]
    lines = [f'{{"user_id":"{user}","item_id":"x","timestamp":{n}}}' for n, user in enumerate([*users, "a"])]
    (tmp_path / "interactions.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    assert load_recsys(tmp_path, encoding="latin-1").sequences().user_ids.tolist() == sorted(["a", *users])
    dataset = load_recsys(tmp_path)
    assert dataset.sequences().user_ids.tolist() == ["a"]
    assert bad_lines(dataset) == [("interactions.jsonl", n) for n in (1, 2, 3)]
    assert dataset.quarantine[0]["row"] == lines[0].replace("\xe9", r"\xe9")
    for encoding, said in (("utf-16", "ends lines otherwise"), ("klingon", "is no encoding of text")):
        with pytest.raises(ValueError, match=f"`encoding` '{encoding}' {said}"):
            load_recsys(tmp_path, encoding=encoding)


# ---- MovieLens


def test_ml_1m(tmp_path):
    ratings = [
        "1::1193::5::978300760",
        "1::661::3::978302109",
        "2::1193::4::978298413",
        "2::broken",
        "2::99::4::978298414",
    ]
    movies = [
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical",
        '1193::Star Wars: Episode "IV", caf\xe9 (1977)::Drama',
    ]
    (tmp_path / "ratings.dat").write_text("\n".join(ratings) + "\n", encoding="latin-1")
    (tmp_path / "movies.dat").write_text("\n".join(movies) + "\n", encoding="latin-1")
    posters = tmp_path / "posters"
    posters.mkdir()
    (posters / "661.png").write_bytes(png())
    (posters / "1193.jpg").write_bytes(b"no image")
    dataset = load_recsys(tmp_path, posters=posters)
    assert events_of(dataset) == [("1", "1193", 978300760), ("1", "661", 978302109), ("2", "1193", 978298413)]
    assert bad_lines(dataset) == [("ratings.dat", 4)]
    assert dataset.coverage.quarantined == {"bad_line": 1, "unknown_item": 1}
    assert dataset.item(0)["text"] == "James and the Giant Peach (1996). Genres: Animation, Children's, Musical."
    assert dataset.item(1)["text"] == 'Star Wars: Episode "IV", café (1977). Genres: Drama.'
    assert dataset.item(0)["image"].size == (6, 4)
    assert dataset.item(1)["image"] is None
    assert dataset.interactions["rating"][:] == [5, 3, 4]
    assert dataset.temporal_split(test_from="2000-12-31T22:30:00").coverage.splits["test"] == 1


def test_ml_20m_and_latest(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,3.5,1112484676\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n2,"American President, The (1995)",Comedy|Drama\n29,Ünbekannt,(no genres listed)\n'
    )
    (tmp_path / "links.csv").write_text("movieId,imdbId\n2,1\n")
    dataset = load_recsys(tmp_path)
    assert events_of(dataset) == [("1", "29", 1112484676), ("1", "2", 1112486027)]
    assert dataset.item(0)["text"] == "American President, The (1995). Genres: Comedy, Drama."
    assert dataset.item(1)["text"] == "Ünbekannt"
    with pytest.raises(ValueError, match=r"neither ratings.dat"):
        read_movielens(tmp_path.parent)


# ---- RecBole, MMRec


def write_tabs(path, *lines):
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).replace(" | ", "\t").encode() + b"\n")


def test_recbole(tmp_path):
    write_tabs(
        tmp_path / "ml.inter",
        "user_id:token | item_id:token | rating:float | timestamp:float | tags:token_seq",
        "007 | 10 | 3.5 | 8.81250949e+08 | slow funny",
        "",
        "007 | 20 | good | 881250950 | ",
        "007 | 20",
        "",
        "8 | 20 |  | 881250951 | ",
        "8 | 10 | 4 | yesterday | ",
        "8 | 99 | 4 | 881250952 | ",
        " | 10 | 4 | 881250953 | ",
    )
    write_tabs(
        tmp_path / "ml.item",
        "item_id:token | movie_title:token_seq | year:float | class:token_seq",
        '10 | "Brazil | 1985 | Comedy Sci-Fi',
        "20 | Alien | 1979 | Horror",
        "30 | Solaris | soon | Drama",
        "20 | Aliens | 1986 | Horror",
    )
    dataset = load_recsys(tmp_path)
    assert dataset.name == "ml" and dataset.split_spec == {"kind": "none"}
    assert events_of(dataset) == [("007", "10", 881250949), ("8", "20", 881250951)]
    assert dataset.interactions["rating"][:] == [3.5, None]
    assert dataset.interactions["tags"][:] == ["slow funny", None]
    assert bad_lines(dataset) == [("ml.inter", 5), ("ml.inter", 4), ("ml.inter", 8), ("ml.item", 4)]
    assert dataset.quarantine[1]["row"] == "007\t20\tgood\t881250950\t"
    assert dataset.coverage.quarantined == {
        "bad_line": 4, "duplicate_item_id": 1, "null_user_id": 1, "unknown_item": 1
    }  # fmt: skip
    assert [dataset.item(n)["text"] for n in range(dataset.n_items)] == ['"Brazil', "Alien"]
    assert dataset.items["year"][:] == [1985.0, 1979.0] and dataset.items["class"][0] == "Comedy Sci-Fi"


def test_recbole_columns_are_found_by_their_types(tmp_path):
    write_tabs(
        tmp_path / "shops.inter",
        "when:float | session:token | venue:token | weight:float",
        "3 | s1 | v2 | 1",
        "2 | s1 | v1 | 2",
    )
    names = "city:token | venue:token | label:token_seq"
    write_tabs(tmp_path / "shops.item", names, "Bonn | v1 | Bar", "Ulm | v2 | Inn")
    with pytest.raises(ValueError, match="no column `timestamp`.*'when'"):
        load_recsys(tmp_path)  # no type tells a time from a weight
    dataset = load_recsys(tmp_path, column_mapping={"when": "timestamp", "label": "text"})
    assert events_of(dataset) == [("s1", "v1", 2), ("s1", "v2", 3)]
    assert dataset.interactions["weight"][:] == [2.0, 1.0]
    assert dataset.item(1)["text"] == "Inn" and "title" not in dataset.items.column_names
    turned = {"interactions": {"when": "timestamp", "venue": "user_id"}}
    with pytest.raises(ValueError, match="`items` has no column `item_id`"):
        read_recbole(tmp_path / "shops.inter", column_mapping=turned)
    (tmp_path / "shops.item").unlink()
    dataset = read_recbole(tmp_path / "shops.inter", column_mapping=turned)
    assert events_of(dataset) == [("v1", "s1", 2), ("v2", "s1", 3)]


def mmrec(path, *labels):
    """Events of users 0 and 1, of which those of a user have one time, except for the last."""
    rows = [f"{n % 2} | {n} | 5.0 | {1_400_000_000 + (n > 7)} | {label}" for n, label in enumerate(labels)]
    write_tabs(path, "userID | itemID | rating | timestamp | x_label", *rows)


def test_mmrec_keeps_its_split_and_orders_equal_times_by_it(tmp_path):
    mmrec(tmp_path / "baby.inter", 0, 0, 2, 1, 0, 0, 1, 1.5, "x", 2, 2)
    dataset = load_recsys(tmp_path)
    assert dataset.split_spec == {"kind": "given", "column": "x_label"}
    assert dataset.coverage.splits == {"train": 4, "validation": 2, "test": 3}
    assert dataset.coverage.quarantined == {"bad_line": 1, "bad_split": 1}
    sequences = dataset.sequences()
    ordered = [sequences.item_ids[i] for i in sequences.items]
    assert ordered == ["0", "4", "6", "2", "10", "1", "5", "3", "9"]
    assert sequences.split.tolist() == [0, 0, 1, 2, 2, 0, 0, 1, 2]
    assert dataset.examples("test").targets.tolist() == [dataset.item_ids.tolist().index(i) for i in ("2", "10", "9")]


def test_a_split_that_cannot_be_kept_is_refused_and_can_be_left_out(tmp_path):
    mmrec(tmp_path / "baby.inter", 2, 0, 0, 0, 1, 0, 0, 1, 0, 2)
    with pytest.raises(ValueError, match="`split_column` 'x_label' goes back in time, first for the user '0'.*=None"):
        load_recsys(tmp_path)
    dataset = load_recsys(tmp_path, split_column=None)
    assert dataset.split_spec == {"kind": "none"} and dataset.n_interactions == 10
    assert dataset.interactions["x_label"][:5] == [2, 0, 1, 0, 0]


def test_another_split_column_may_hold_names(tmp_path):
    rows = ["u | i1 | 1 | train\r", "u | i2 | 2 | validation\r", "\r", "u | i3 | 3 | late\r", "u | i4 | 4 | test\r"]
    write_tabs(tmp_path / "a.inter", "user_id:token | item_id:token | timestamp:float | part:token\r", *rows)
    dataset = load_recsys(tmp_path, split_column="part")
    assert dataset.split_spec == {"kind": "given", "column": "part"}
    assert dataset.sequences().split.tolist() == [0, 1, 2] and dataset.coverage.quarantined == {"bad_split": 1}


def test_recbole_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must hold one .inter file, it has \[\]"):
        read_recbole(tmp_path)
    write_tabs(tmp_path / "a.test.inter", "user_id:token | item_id:word | timestamp:float", "u | i | 1")
    write_tabs(tmp_path / "a.train.inter", "user_id:token | item_id:token | item_id:float", "u | i | 1")
    with pytest.raises(ValueError, match=r"it has \['a.test.inter', 'a.train.inter'\]; name the file"):
        load_recsys(tmp_path)
    with pytest.raises(ValueError, match="'item_id:word'; its type must be one of token, token_seq, float, float_seq"):
        load_recsys(tmp_path / "a.test.inter")
    with pytest.raises(ValueError, match="a.train.inter has two columns of one name"):
        read_recbole(tmp_path / "a.train.inter")
    with pytest.raises(ValueError, match="There is no file"):
        read_recbole(tmp_path / "b.inter")
    (tmp_path / "c.inter").write_bytes("user_id:token,item_id:token,timestamp:float\nJos\xe9,i,1\n".encode("latin-1"))
    one = read_recbole(tmp_path / "c.inter", separator=",", encoding="latin-1")
    assert events_of(one) == [("José", "i", 1)]


# ---- Amazon


def gz(path, lines):
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


REVIEWS_2014 = [
    json.dumps(
        {"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 20, "helpful": [0, 0], "reviewText": "x"}
    ),
    json.dumps({"reviewerID": "A1", "asin": "B02", "overall": 4.0, "unixReviewTime": 10, "style": {"a": 1}}),
    '{"reviewerID": "A2", "asin": ',
    json.dumps({"reviewerID": "A2", "asin": "B03", "overall": 1, "unixReviewTime": 30}),
]


def test_amazon_2014(tmp_path, no_network):
    gz(tmp_path / "reviews_Toys_5.json.gz", REVIEWS_2014)
    meta = [
        "{'asin': 'B01', 'title': 'Bob\\'s &quot;kit&quot;', 'price': 9.5, 'brand': 'Acme', "
        "'categories': [['Toys', 'Kits']], 'imUrl': 'http://example.org/b01.jpg', 'description': \"It's  good.\"}",
        "{'asin': 'UNSEEN', 'title': 'nobody bought it'}",
        "{'asin': 'B02', 'title': __import__('os').system('touch hacked')}",
        "{'asin': 'B02', 'imUrl': 'http://example.org/b02.jpg'}",
    ]
    gz(tmp_path / "meta_Toys.json.gz", meta)
    images = tmp_path / "images"
    images.mkdir()
    (images / "B03.jpg").write_bytes(png())
    dataset = load_recsys(tmp_path, image_folder=images)
    assert events_of(dataset) == [("A1", "B02", 10), ("A1", "B01", 20), ("A2", "B03", 30)]
    assert bad_lines(dataset) == [("reviews_Toys_5.json.gz", 3), ("meta_Toys.json.gz", 3)]
    by_id = dict(zip(dataset.item_ids, range(dataset.n_items), strict=True))
    assert set(by_id) == {"B01", "B02", "B03"}
    text = dataset.item(by_id["B01"])["text"]
    assert text == "Bob's \"kit\". Brand: Acme. Category: Toys > Kits. Price: $9.50. It's good."
    assert dataset.item(by_id["B02"]) == {"text": None, "image": None}
    assert dataset.item(by_id["B03"])["image"] is not None
    everything = read_amazon_2014(tmp_path, all_items=True)
    assert set(everything.item_ids) == {"B01", "B02", "B03", "UNSEEN"}
    assert everything.timestamp_unit == "s"


def test_amazon_2018(tmp_path, no_network):
    gz(tmp_path / "Movies_and_TV_5.json.gz", REVIEWS_2014)
    meta = {
        "asin": "B01",
        "title": "A film",
        "brand": "Studio",
        "category": ["Movies", "Drama"],
        "price": "$12.99",
        "description": ["First.", "Second."],
        "imageURL": ["http://example.org/x.jpg"],
    }
    gz(
        tmp_path / "meta_Movies_and_TV.json.gz",
        [json.dumps(meta), json.dumps({"asin": "B02", "price": ".a-box{" * 50})],
    )
    dataset = load_recsys(tmp_path)
    by_id = dict(zip(dataset.item_ids, range(dataset.n_items), strict=True))
    expected = "A film. Brand: Studio. Category: Movies > Drama. Price: $12.99. First. Second."
    assert dataset.item(by_id["B01"])["text"] == expected
    assert dataset.item(by_id["B02"])["text"] is None
    assert "image" not in dataset.items.column_names


def test_amazon_2023(tmp_path, no_network):
    reviews = [
        {"user_id": "U", "parent_asin": "P1", "asin": "V1", "rating": 5.0, "timestamp": 1600000000123, "images": []},
        {
            "user_id": "U",
            "parent_asin": "P2",
            "asin": "V2",
            "rating": 3.0,
            "timestamp": 1500000000000,
            "images": [{"a": "b"}],
        },
    ]
    meta = {
        "parent_asin": "P1",
        "title": "Lamp",
        "store": "Lumen",
        "categories": ["Home", "Light"],
        "price": 5,
        "description": [],
        "images": [{"large": "https://example.org/l.jpg"}],
    }
    gz(tmp_path / "All_Beauty.jsonl.gz", [json.dumps(r) for r in reviews])
    gz(tmp_path / "meta_All_Beauty.jsonl.gz", [json.dumps(meta), "[]", json.dumps({**meta, "price": 10**400})])
    dataset = load_recsys(tmp_path)
    assert events_of(dataset) == [("U", "P2", 1500000000000), ("U", "P1", 1600000000123)]
    assert dataset.item(0)["text"] == "Lamp. Brand: Lumen. Category: Home > Light. Price: $5.00."
    assert dataset.timestamp_unit == "ms"
    assert bad_lines(dataset) == [("meta_All_Beauty.jsonl.gz", 2), ("meta_All_Beauty.jsonl.gz", 3)]
    with pytest.raises(ValueError, match="no file `meta`"):
        read_amazon_2023(tmp_path / "All_Beauty.jsonl.gz", tmp_path / "nope")
    with pytest.raises(ValueError, match="does not hold exactly one"):
        read_amazon_2023(tmp_path.parent)


def test_a_cut_off_download_is_explained(tmp_path):
    data = gzip.compress("\n".join(REVIEWS_2014 * 200).encode())
    (tmp_path / "reviews_X_5.json.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut off"):
        read_amazon_2014(tmp_path)


def test_json_lines_take_the_slow_way_only_for_bad_blocks(tmp_path):
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1, "b": "5"}\n{"b": 2.0}\n{"a": {}}\n{"b": 1.5}\n{"a": "x"} {"a": "y"}\n')
    rows, bad = read_json_lines(path, schema)
    assert rows.to_pylist() == [{"a": "1", "b": 5}, {"a": None, "b": 2}]
    assert bad["number"].to_pylist() == [3, 4, 5]
    path.write_bytes(b'{"a": "\xe9"}\n{"a": "\xe8"}\n{"a": "\xc3\xa9"}\n')  # pyarrow itself takes all three
    rows, bad = read_json_lines(path, schema)
    assert (rows["a"].to_pylist(), bad["number"].to_pylist()) == (["\xe9"], [1, 2])
    numbers = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, "9" * 20, 1e300]
    path.write_text("\n".join(json.dumps({"b": number}) for number in numbers))
    rows, bad = read_json_lines(path, schema)
    assert (rows["b"].to_pylist(), bad["number"].to_pylist()) == ([2**63 - 1, -(2**63)], [2, 4, 5, 6])


# ---- dataset repos


def write_repo(folder):
    dataset = RecDataset.from_tables(
        [{"user_id": f"u{i % 3}", "item_id": f"i{i % 4}", "timestamp": i} for i in range(30)],
        [{"item_id": f"i{i}", "title": f"t{i}", "image": {"bytes": png(), "path": None}} for i in range(4)],
    ).leave_one_out()
    for name, table in (("interactions", dataset.interactions), ("items", dataset.items)):
        (folder / name).mkdir(parents=True)
        table.to_parquet(str(folder / name / "train-00000-of-00001.parquet"))
    card = ["---", "configs:"]
    for name in ("interactions", "items"):
        card += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/*.parquet"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# A dataset", ""]))
    return dataset


def test_a_local_dataset_repo_keeps_its_split(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    original = write_repo(tmp_path / "repo")
    loaded = load_recsys(tmp_path / "repo")
    assert loaded.fingerprint == original.fingerprint
    assert loaded.coverage.splits == original.coverage.splits
    assert loaded.split_spec == {"kind": "given", "column": "split"}
    assert loaded.item(1)["image"].size == (6, 4)
    assert load_recsys(tmp_path / "repo", split_column=None).split_spec == {"kind": "none"}
    with pytest.raises(ValueError, match="`revision`"):
        read_hub(tmp_path / "repo", revision="v1")


def test_a_repo_without_the_configs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "data.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match="it needs `interactions`"):
        read_hub(tmp_path / "repo")


# ---- finding the reader


def test_a_saved_dataset_is_found_first(tmp_path):
    RecDataset.from_tables([{"user_id": 1, "item_id": 2, "timestamp": 3}]).save(tmp_path / "d")
    assert load_recsys(tmp_path / "d").n_interactions == 1
    with pytest.raises(ValueError, match="`name`: .* is a saved dataset, which is read as it was"):
        load_recsys(tmp_path / "d", name="x")


def test_what_was_looked_for_is_listed(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(ValueError, match="notes.md") as caught:
        load_recsys(tmp_path)
    for word in (
        "interactions.parquet",
        "ratings.dat",
        "reviews_X_5.json.gz",
        "interactions.csv",
        "meta_X.jsonl.gz",
        "NAME.inter",
        "transactions_train.csv",
        "MicroLens-X_pairs.csv",
        "Pixel200K.csv",
    ):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="`format` must be one of"):
        load_recsys(tmp_path, format="xml")
    with pytest.raises(ValueError, match="`revision`"):
        load_recsys(tmp_path, revision="main")


@pytest.mark.parametrize("name", ["./missing", "/no/such/place", "just-a-word", "a/b/c"])
def test_a_mistyped_folder_is_not_looked_up_on_the_hub(name, no_network):
    with pytest.raises(ValueError, match="no folder .*, and a Hub id has the form"):
        load_recsys(name)
