"""Files that are not what their name says, and the same log in every format: one table, or one sentence that says why not."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.quarantine import Quarantine
from tsa.data.log.reader import read_log
from tsa.data.online.payments import PaymentReader
from tsa.errors import DataError

MARKET = Market.from_dict(
    {
        "name": "formats",
        "event": {"id": "id", "time": "at", "amount": "amount"},
        "label": {"column": "fraud", "delay_days": 1},
        "history": [{"name": "card", "key": "card"}],
        "features": {"categorical": [{"name": "kind", "min_count": 1}], "numerical": ["amount"]},
    }
)
START = datetime(2025, 1, 1)
HEADER = "id,at,card,kind,amount,fraud"
LINE = "1,2025-01-01 00:00:00,7,web,5.0,0"


def read(folder: Path, *paths: Path | str, market: Market = MARKET, **options: Any) -> pl.DataFrame:
    made = read_log(market, [str(path) for path in paths], folder / "clean.parquet", **options)
    return pl.read_parquet(made.path)


def refused(folder: Path, *paths: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *paths, **options)
    text = str(caught.value)
    assert len(text) < 600 * (1 + text.count("\n")), text
    return text


CSV = f"{HEADER}\n{LINE}\n".encode()
LONG, LATIN = CSV + f"{LINE}\n".encode() * 1999, "2,2025-01-01,8,café,1,0\n".encode("latin-1")
"""More than the first bytes, from which an encoding is detected; and a line in another."""
FILES = {
    "xlsx.csv": (b"PK\x03\x04" + CSV, "is an Excel or zip file; export it as CSV in UTF-8"),
    "xls.csv": (b"\xd0\xcf\x11\xe0" + CSV, "is an old Excel file"),
    "parquet.csv": (b"PAR1" + CSV, "is a Parquet file; name it .parquet"),
    "packed.csv": (gzip.compress(CSV), "is compressed by gzip; rename it to end in .gz"),
    "wide.jsonl": ('{"id": 1}\n'.encode("utf-16"), "is in UTF-16"),
    "wide_without_mark.csv": (CSV.decode().encode("utf-16-le"), "is in UTF-16; save it as UTF-8"),
    "latin.csv": (LONG + LATIN, "line 2002: byte 0xe9 is not UTF-8"),
    "latin.tsv": ((LONG + LATIN).replace(b",", b"\t"), "line 2002: byte 0xe9"),
    "unused.csv": (
        LONG.replace(b",", b",m,", 1) + LATIN.replace(b",", b",\xff,", 1),
        "line 2002: byte 0xff is not UTF-8",
    ),
    "twice_cr.csv": (CSV.replace(b"\n", b"\r\r\n"), "line 1 ends in CR CR LF"),
    "part_cr.csv": (CSV.replace(b"\n", b"\r", 1), "line 1 holds a CR"),
    "blank_head.csv": (b"\n" + CSV, "line 1 is blank; it must hold the names of the columns"),
    "plain.csv.gz": (CSV, "is not compressed as its name says; let it end without .gz"),
    "plain.jsonl.zst": (b'{"id": 1}\n', "is not compressed as its name says; let it end without .zst"),
    "none.csv.gz": (b"", "is empty"),
    "digits.jsonl": (
        b'{"id": 1, "at": 0, "kind": 0, "amount": 0, "fraud": 0}\n{"id": 2, "card": ' + b"1" * 50 + b"}\n",
        "line 2 holds a number of more than 38 digits; write it as a text",
    ),
    "pretty.json": (b'{\n "id": 1\n}\n', "line 1 is not JSON: the line is cut off"),
    "comma.jsonl": (
        b'{"id": 1},\n{"id": 2}\n',
        "line 1 is not JSON: unexpected content after document at character 10",
    ),
    "mac.csv": (CSV.replace(b"\n", b"\r"), "has lines that end in CR only"),
    "nul.csv": (CSV.replace(b"web", b"w\0b"), "line 2: holds a NUL byte"),
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n \n", "is empty"),
    "cut.csv.gz": (
        gzip.compress(b"".join(b"%d," % at * 5 + b"0\n" for at in range(9999)))[:-5000],
        "is compressed and ends too early; copy it again",
    ),
    "twice.csv": (CSV.replace(b"kind", b" card"), "line 1: two columns are called 'card'"),
    "cut.parquet": (b"PAR1" + CSV, "is a Parquet file that is cut off; copy it again"),
    "text.parquet": (CSV, "is not a Parquet file"),
    "none.parquet": (b"", "is empty"),
    "mark.jsonl": (b'\xef\xbb\xbf{"id": 1}\n', "begins with a byte order mark"),
    "nan.jsonl": (b'{"id": 1}\n{"id": 2, "amount": NaN}\n', "line 2 is not JSON: NaN is no JSON value; write null"),
    "infinite.jsonl": (b'{"id": 1}\n\n{"amount": -Infinity}\n', "line 3 is not JSON: -Infinity is no JSON value"),
    "cut.jsonl": (b'{"id": 1}\n{"id": 2, "am', "line 2 is not JSON: the line is cut off"),
    "array.json": (b'[{"id": 1},\n{"id": 2}]\n', "is one JSON array; write one object per line"),
    "array_of_a_line.json": (b'[{"id": 1}, {"id": 2}]\n', "is one JSON array; write one object per line"),
    "long_head.csv": (b"x" * 200_000 + CSV, "line 1: a name is too long"),
    "lists.jsonl": (b'{"id": 1}\n[1, 2]\n', "line 2 must hold an object of fields (got a list)"),
    "texts.jsonl": (b'{"id": 1}\n"x"\n', "line 2 must hold an object of fields (got a text)"),
    "latin.jsonl": (b'{"id": 1}\n{"kind": "caf\xe9"}\n', "line 2 is not JSON: byte 0xe9 is not UTF-8"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_its_name_says(name: str, tmp_path: Path) -> None:
    """One sentence with the file, beside a sound one, and the line where there is one."""
    content, message = FILES[name]
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / name).write_bytes(content)
    text = refused(tmp_path, tmp_path / "a.csv", tmp_path / name)
    assert text.startswith(f"{tmp_path / name}: {message}"), text
    assert "\n" not in text


def test_of_a_file_no_more_than_a_hundred_characters_are_told(tmp_path: Path) -> None:
    """A quote that nothing closes made a message of the whole log."""
    path = tmp_path / "a.csv"
    path.write_text(f'{HEADER}\n{LINE}\n1,2025-01-01,7,"web,5,0\n' + f"{LINE}\n" * 5000)
    assert f"{path}: line 3: a quote is not closed before line" in refused(tmp_path, path)
    path.write_text(f"{HEADER}\n" + LINE.replace("web,5.0", "web," + "x" * 9999) + "\n")
    assert len(refused(tmp_path, path)) < 400


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (pa.timestamp("us", tz="Mars/Olympus"), START, "note: times must have a time zone such as UTC"),
        (pa.timestamp("us", tz="Z"), START, "(got 'Z'); export them in UTC"),
        (pa.timestamp("us", tz="+05:30"), START, "(got '+05:30'); export them in UTC"),
        (pa.timestamp("us", tz="-13:00"), START, "(got '-13:00'); export them in UTC"),
        (pa.decimal256(60, 2), Decimal(1), "note: decimals must have at most 38 digits (got decimal256(60, 2))"),
    ],
)
def test_parquet_types_that_cannot_be_held(kind: Any, value: Any, message: str, tmp_path: Path) -> None:
    """Also of a column that the market does not read: Polars panicked at its schema."""
    row = {"id": [1], "at": pa.array([START]), "card": [7], "kind": ["a"], "amount": [1.0], "fraud": [0]}
    pq.write_table(pa.table({**row, "note": pa.array([value], kind)}), tmp_path / "a.parquet")
    assert message in refused(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize("zone", ["UTC", "+14:00", "-0500", "America/New_York", "EST"])
def test_zones_of_parquet_are_read(zone: str, tmp_path: Path) -> None:
    row = {"id": [1], "at": pa.array([START], pa.timestamp("us", tz=zone)), "card": [7], "kind": ["a"]}
    pq.write_table(pa.table({**row, "amount": [1.0], "fraud": [0]}), tmp_path / "a.parquet")
    assert read(tmp_path, tmp_path / "a.parquet")["__time_seconds"].item() == 1_735_689_600.0


def test_a_row_that_breaks_a_rule_is_told_with_its_file(tmp_path: Path) -> None:
    """Of many files of one kind, and of several kinds; not of one alone. An id of any length is told in short."""
    names = ["jan.csv", "feb.csv", "mar.tsv", "apr.jsonl"]
    long = "9" * 10_000
    for at, name in enumerate(names):
        text = f"{HEADER}\n" + LINE.replace("1,", f"{at},", 1) + "\n" + LINE.replace("1,", f"{at}{long},", 1) + "\n"
        (tmp_path / name).write_text(text.replace(",", "\t") if name.endswith("tsv") else text)
    row = {"id": 5, "at": "2025-01-01", "card": 7, "kind": "web", "amount": 5, "fraud": 0}
    (tmp_path / "apr.jsonl").write_text(json.dumps(row) + "\n")
    feb = (tmp_path / "feb.csv").read_text()
    (tmp_path / "feb.csv").write_text(feb.replace("5.0", "x"))
    text = refused(tmp_path, *(tmp_path / name for name in names))
    assert f"id 1 in {tmp_path / 'feb.csv'} ('x')" in text
    assert "jan.csv" not in text
    text = refused(tmp_path, tmp_path / "feb.csv")
    assert f"the first: id 1 ('x'), id 1{long[:36]}... ('x')" in text


def test_one_key_without_its_digits_does_not_cost_the_others(tmp_path: Path) -> None:
    """JSON lines as tables: the row is set aside, blank lines or not, veiled or not."""
    row = {"id": 1, "at": "2025-01-01", "card": 7, "kind": "web", "amount": 5, "fraud": 0}
    rows = [row, {**row, "id": 2, "card": 9.1e18}, {**row, "id": 3}, {**row, "id": 4, "card": -9007199254740993.0}]
    path, aside = tmp_path / "a.jsonl", tmp_path / "bad.parquet"
    path.write_text("\n \n".join(map(json.dumps, rows)) + "\n")
    kept = read(tmp_path, path, path.with_name("a.jsonl"), quarantine=Quarantine(aside, 0.5))
    assert kept["id"].to_list() == [1, 3]
    assert pl.read_parquet(aside).select("id", "__reason").rows() == [("2", "inexact:card"), ("4", "inexact:card")]
    assert "inexact:card: must have all its digits" in refused(tmp_path, path)


@pytest.mark.parametrize("value", [2.0**53, 1e16, 1.5e17, 1e22, 1e-7, 3e-10, -2.5e-9, 1e300, 0.1, 1 / 3, 123456789.125])
def test_a_float_category_is_one_text_in_every_format(value: float, tmp_path: Path) -> None:
    row = {"id": 1, "at": "2025-01-01", "card": 7, "kind": value, "amount": 5, "fraud": 0}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    pl.DataFrame([row]).write_parquet(tmp_path / "a.parquet")
    files = [read(tmp_path, tmp_path / name) for name in ("a.jsonl", "a.parquet")]
    (online,) = PaymentReader(MARKET, Encoder.fit(MARKET, files[0].lazy())).read_all([row]).raw
    assert {*(file["kind"].item() for file in files), online["kind"]} == {online["kind"]}


@pytest.mark.parametrize("value", [{}, [], [1], {"a": 1}])
def test_an_object_or_a_list_is_no_text(value: Any, tmp_path: Path) -> None:
    """Empty ones too, as in single payments."""
    row = {"id": 1, "at": "2025-01-01", "card": 7, "kind": "web", "amount": 5, "fraud": 0}
    for name in ("kind", "card"):
        (tmp_path / "a.jsonl").write_text(json.dumps({**row, name: value}) + "\n")
        assert f"not_a_text:{name}" in refused(tmp_path, tmp_path / "a.jsonl")


def test_a_log_whose_rows_are_all_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\n" + LINE.replace("5.0", "x") + "\n")
    text = refused(tmp_path, path, quarantine=Quarantine(tmp_path / "bad.parquet", 1.0))
    assert text.endswith("(got 1 rows, of which 1 break a rule and 0 are excluded; not_a_number:amount: 1 rows)")
    assert len(pl.read_parquet(tmp_path / "bad.parquet")) == 1


class Served(BaseHTTPRequestHandler):
    """Files as an object store serves them: whole, or a range of bytes."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        first, last = re.findall(r"[0-9]+", self.headers.get("Range", "bytes=0-999999"))
        self._answer(self.files[self.path][int(first) : int(last) + 1], int(first))

    def _answer(self, body: bytes, first: int = 0) -> None:
        whole = len(self.files[self.path])
        self.send_response(206 if body else 200)
        self.send_header("Content-Length", str(len(body) or whole))
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{whole}")
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}\n{"id": 2, "amount": NaN}\n', "line 2 is not JSON: NaN is no JSON value; write null"),
        (b'{"id": 1}\n{"id": 2, "am', "line 2 is not JSON: the line is cut off"),
        (b'{"id": 1}\n[1]\n', "line 2 must hold an object of fields (got a list)"),
        (b'\xef\xbb\xbf{"id": 1}\n', "line 1 is not JSON: it begins with a byte order mark"),
        (b'{"id": 1, "kind": "caf\xe9"}\n', "is not in UTF-8; save it as UTF-8"),
        ('{"id": 1}\n'.encode("utf-16"), "is not in UTF-8; save it as UTF-8"),
    ],
)
def test_json_lines_of_an_object_store(content: bytes, message: str, served: str, tmp_path: Path) -> None:
    """The same sentences as of files on this machine."""
    Served.files["/a.jsonl"] = content
    with pytest.raises(DataError, match=re.escape(f"{served}/a.jsonl: {message}")):
        read(tmp_path, f"{served}/a.jsonl")


def test_a_header_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text(f"{HEADER}\n")
    assert refused(tmp_path, path) == "log: must hold at least one row, but it is empty"
    other.write_bytes(CSV)
    assert len(read(tmp_path, path, other)) == 1


@pytest.mark.parametrize("mark", ["\t", ";", "|", ","])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_the_separator_is_seen_in_the_header(mark: str, name: str, tmp_path: Path) -> None:
    content = CSV.replace(b",", mark.encode())
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path, tmp_path / name)["kind"].to_list() == ["web"]


def test_one_column_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CSV.replace(b",", b"~"))
    text = refused(tmp_path, path)
    assert "the first line holds one column alone" in text
    assert "(got 'id~at~card~kind~amount~fraud')" in text
    assert "missing" not in text
    path.write_text("x" * 5_000_000 + "\n")
    assert len(refused(tmp_path, path)) < 400


def test_which_of_many_files_does_not_fit(tmp_path: Path) -> None:
    for name in ("jan", "feb", "mar"):
        (tmp_path / f"{name}.csv").write_bytes(CSV)
    (tmp_path / "feb.csv").write_bytes(CSV.replace(b"kind", b"sort"))
    text = refused(tmp_path, *(tmp_path / f"{name}.csv" for name in ("jan", "feb", "mar")))
    assert text.splitlines()[1].startswith(f"  {tmp_path / 'feb.csv'}: kind: missing")
    assert "jan" not in text


def test_what_is_nested_in_json_is_no_text(tmp_path: Path) -> None:
    rows = [{"id": at, "at": "2025-01-01", "card": 7, "kind": "w", "amount": 5, "fraud": 0} for at in range(6)]
    rows[1]["kind"], rows[2]["card"], rows[3]["kind"] = {"a": 1}, [1, 2], "[deleted]"
    rows[4]["note"] = {"card": [1], "kind": {}}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = refused(tmp_path, path)
    assert "not_a_text:kind: must be a text, a number, true, false or null: 1 rows; the first: id 1" in text
    assert "not_a_text:card" in text
    kept = read(tmp_path, path, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert kept["id"].to_list() == [0, 3, 4, 5]


def test_a_text_that_looks_like_a_list_is_a_text_in_json(tmp_path: Path) -> None:
    """As the endpoint reads it. What is a list in the same column of the same file is none."""
    rows = [{"id": at, "at": "2025-01-01", "card": 7, "kind": "w", "amount": 5, "fraud": 0} for at in range(7)]
    rows[1]["kind"], rows[2]["kind"], rows[3]["card"], rows[4]["card"] = "[1,2]", [1, 2], ' {"a": 1}', {"a": 1}
    rows[5]["kind"], rows[6]["note"] = '["x"]', {"kind": "[1]"}
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) + "\n" for row in rows))
    kept = read(tmp_path, path, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert kept["id"].to_list() == [0, 1, 3, 5, 6]
    assert kept["kind"].to_list() == ["w", "[1,2]", "w", '["x"]', "w"]
    assert kept["card"].to_list() == ["7", "7", ' {"a": 1}', "7", "7"]
    assert dict(pl.read_parquet(tmp_path / "bad.parquet").select("id", "__reason").iter_rows()) == {
        "2": "not_a_text:kind",
        "4": "not_a_text:card",
    }


def test_a_field_that_occurs_twice_in_a_json_line_costs_that_row(tmp_path: Path) -> None:
    rows = [{"id": at, "at": "2025-01-01", "card": 7, "kind": "w", "amount": 5, "fraud": 0} for at in range(5)]
    lines = [json.dumps(row) for row in rows]
    lines[1] = lines[1][:-1] + ', "amount": 500}'
    lines[2] = lines[2][:-1] + ', "note": {"card": 1}, "also": "card"}'  # neither is the row's own field
    lines[3] = lines[3][:-1] + ', "note": 1, "note": 2}'  # not a column of the market
    lines[4] = lines[4][:-1] + ', "card": 8, "card": 7, "kind": "v"}'
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert "repeated_field:amount: must occur once in its line" in refused(tmp_path, path)
    kept = read(tmp_path, path, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert kept["id"].to_list() == [0, 2, 3]
    assert dict(pl.read_parquet(tmp_path / "bad.parquet").select("id", "__reason").iter_rows()) == {
        "1": "repeated_field:amount",
        "4": "repeated_field:card; repeated_field:kind",
    }


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.tsv.gz"])
def test_columns_in_the_names_of_folders_are_read(name: str, tmp_path: Path) -> None:
    """As Hive and Spark write them; a column in the file counts first."""
    values = {
        "web": "kind=web",
        "a b/c": "kind=a%20b%2Fc",
        None: "kind=__HIVE_DEFAULT_PARTITION__",
        "in file": "kind=no",
    }
    for at, (kind, folder) in enumerate(values.items()):
        row = {"id": [at], "at": ["2025-01-01"], "card": [7], "kind": [kind], "amount": [5.0], "fraud": [0]}
        frame = pl.DataFrame(row) if kind == "in file" else pl.DataFrame(row).drop("kind")
        place = tmp_path / "log" / "year=2025" / folder
        place.mkdir(parents=True)
        if name.endswith("parquet"):
            frame.write_parquet(place / name)
        elif name.endswith("jsonl"):
            frame.write_ndjson(place / name)
        elif name.endswith("gz"):
            (place / name).write_bytes(gzip.compress(frame.write_csv(separator="\t").encode()))
        else:
            frame.write_csv(place / name)
    kept = read(tmp_path, tmp_path / "log").sort("id")
    assert kept["kind"].to_list() == ["web", "a b/c", None, "in file"]


KEYS = ["7", "007", "1e3", "9100000000000000001", None, "27", "27", "x", "0"]
KINDS = ["true", "false", None, "27", "web", "NA", "1.50", None, "true"]
SPELLED = {
    "card": ["7", "007", "1e3", "9100000000000000001", r"\N", "27.0", "27", "x", "-0.0"],
    "kind": ["True", "FALSE", " ", "27.0", "web", "NA", "1.50", "NULL", "true"],
    "amount": ["5", " 5.5 ", "NULL", "nan", "1e3", "-0.0", "", "<NA>", "True"],
    "fraud": ["True", "FALSE", "1", "0", "NULL", "-1", "", "1.0", "nan"],
}
AMOUNTS = [5, 5.5, None, None, 1000, 0, None, None, 1]
LABELS = [1, 0, 1, 0, -1, -1, -1, 1, -1]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "large.parquet", "dictionary.parquet"])
def test_texts_read_the_same_in_every_format(name: str, tmp_path: Path) -> None:
    path, ids = tmp_path / name, list(range(len(KEYS)))
    times = [f"{START + timedelta(hours=at)}.000 +0000" for at in ids]
    frame = pl.DataFrame({"id": ids, "at": times, **SPELLED})
    if name.endswith("parquet"):
        kind = pa.large_string() if name == "large.parquet" else pa.string()
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        texts = {key: pa.array(values, kind) for key, values in SPELLED.items()}
        if name == "dictionary.parquet":
            texts = {key: values.dictionary_encode() for key, values in texts.items()}
        pq.write_table(pa.table({"id": table["id"], "at": table["at"], **texts}), path)
    elif name == "a.jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if name == "a.tsv" else ",")
    found = read(tmp_path, path)
    assert found["card"].to_list() == KEYS
    assert found["kind"].to_list() == KINDS
    assert found["amount"].to_list() == AMOUNTS
    assert found["__label"].to_list() == LABELS
    rows = [{**row, "at": row["at"]} for row in frame.to_dicts()]
    reader = PaymentReader(MARKET, Encoder.fit(MARKET, found))
    single = reader.read_all(rows, outcomes=True)
    assert list(single.keys["card"]) == KEYS
    assert [row["kind"] for row in single.raw] == KINDS
    assert [row["amount"] for row in single.raw] == AMOUNTS
    assert single.label.tolist() == LABELS
    assert single.time_seconds.tolist() == found["__time_seconds"].to_list()


TYPES: dict[str, tuple[Any, list[Any]]] = {
    "int64": (pa.int64(), [7, 27, None]),
    "uint64": (pa.uint64(), [7, 27, None]),
    "float64": (pa.float64(), [7.0, 27.0, float("nan")]),
    "float32": (pa.float32(), [7.0, 27.0, None]),
    "decimal": (pa.decimal128(38, 0), [Decimal(7), Decimal(27), None]),
    "decimal with places": (pa.decimal128(20, 4), [Decimal("7.0000"), Decimal("27.0000"), None]),
    "long decimal": (pa.decimal256(38, 2), [Decimal("7.00"), Decimal("27.00"), None]),
    "text": (pa.string(), ["7", "27.0", "NULL"]),
    "dictionary": (pa.dictionary(pa.int32(), pa.int64()), [7, 27, None]),
}


@pytest.mark.parametrize("name", TYPES)
def test_files_of_one_log_may_have_other_types(name: str, tmp_path: Path) -> None:
    """Key and category are those of the text file beside it."""
    kind, values = TYPES[name]
    times = pa.array([START + timedelta(days=1, hours=at) for at in range(3)], pa.timestamp("us", "UTC"))
    column = pa.array(values, kind)
    table = {"id": [10, 11, 12], "at": times, "card": column, "kind": column, "amount": [1.0] * 3, "fraud": [0] * 3}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    (tmp_path / "a.csv").write_text(f"{HEADER}\n0,2025-01-01,7,7.0,1,0\n1,2025-01-01,27,27,1,0\n2,2025-01-01,,,1,0\n")
    found = read(tmp_path, tmp_path / "a.csv", tmp_path / "b.parquet")
    assert found["card"].to_list() == ["7", "27", None] * 2
    assert found["kind"].to_list() == ["7", "27", None] * 2


@pytest.mark.parametrize(
    "kind", [pa.binary(3), pa.binary(), pa.list_(pa.int64()), pa.duration("us"), pa.decimal256(60, 0)]
)
def test_types_without_a_spelling_are_refused(kind: Any, tmp_path: Path) -> None:
    values: Any = {"list": [[1]], "fixed": [b"abc"], "binar": [b"abc"], "decim": [Decimal(10) ** 55]}
    column = pa.array(values.get(str(kind)[:5].rstrip("<"), [timedelta(1)]), kind)
    table = {"id": [1], "at": pa.array([START]), "card": column, "kind": ["a"], "amount": [1.0], "fraud": [0]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert re.search(
        r"card: must be a text, a number or a time|card: decimals must have at most 38 digits",
        refused(tmp_path, tmp_path / "a.parquet"),
    )
