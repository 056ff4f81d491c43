"""Reading rows that carry their own history, of the size of markets/eu.toml: beside a plain reader, in one run, one core.

    python benchmarks/wire.py [--rows 3000]

The plain reader goes the legacy system's way: a JSON row at a time, Python for every value, lists, then arrays. It keeps the same
rules, and its arrays are compared with ours before anything is timed. Batch is timed from files to a finished store, `tsa
prepare` with a given encoder; of rows that tell of the same payments again and again, as the rows of a log do, and of rows
that have nothing in common. A request is timed from bytes to arrays, and to tensors. Both readers take turns, row by row
or file by file. Times are CPU seconds of this process, system calls included, all threads together; each figure is the best of
several rounds, so that other work on the machine counts as little as it can.
The plain reader, and single requests, get the first 200 rows.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TSA_EU_SECRET", "only the benchmark knows this secret")

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import LIMIT, ImportedScaler
from tsa.data.store.prepare import prepare
from tsa.data.wire import WireReader
from tsa.data.wire.layout import FieldLayout
from tsa.model.collate import request_batch
from tsa.simulation import SimulationConfig, write_wire

MARKET = Path(__file__).parents[1] / "markets" / "eu.toml"
PAYMENTS_EACH = 120  # so that most histories are full
PLAIN_ROWS = 200


@dataclass
class PlainReader:
    """The legacy system's way, for a market of one history."""

    market: Market
    encoder: Encoder
    indices: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = FieldLayout(self.market)
        self.missing = set(self.layout.wire.missing)
        self.numeric = set(self.layout.wire.numeric_categorical)
        self.vocabularies = {v.name: v for v in self.encoder.categorical_vocabularies}
        self.scalers = {
            s.name: s for s in (*self.encoder.numerical_scaling.scalers, *self.encoder.engineered_scaling.scalers)
        }
        for name, vocabulary in self.vocabularies.items():
            self.indices[name] = {value: vocabulary.known_row + at for at, value in enumerate(vocabulary.values)}

    def read(self, line: bytes) -> dict[str, np.ndarray]:
        row = json.loads(line)
        self.check(row)
        wire, event, length = self.layout.wire, self.market.event, self.market.history[0].length
        told = self.told(row, self.layout.categorical, self.layout.wire.parts[0])
        numbers_told = self.told(row, self.layout.numerical, self.layout.wire.parts[1])
        told, numbers_told = self.align(told, numbers_told)
        now, ages = float(row[event.time]), []
        for at in told["time"]:
            age = now - float(at)
            if age < 0:
                raise ValueError(f"{event.time}: negative age {age}")
            ages.append(min(age, wire.age_cap_seconds))
        ages = [*ages[-length + 1 :], 0.0]
        categorical, numerical = [], []
        for name in self.layout.categorical:
            values = [*told[name][-length + 1 :], row[name]]
            categorical.append([self.index(name, self.clean(name, value)) for value in values])
        for name in self.layout.numerical:
            values = [*numbers_told[name][-length + 1 :], row[name]]
            numerical.append([self.scale(name, self.number(name, value)) for value in values])
        engineered = [self.scale(name, self.number(name, row[name])) for name in self.layout.engineered]
        pad = length - len(ages)
        return {
            "categorical": np.array([[0] * pad + values for values in categorical], np.int32).T,
            "numerical": np.array([[0.0] * pad + values for values in numerical], np.float32).T,
            "age_seconds": np.array([0.0] * pad + ages, np.float32),
            "padding": np.array([True] * pad + [False] * len(ages)),
            "engineered": np.array(engineered, np.float32),
        }

    def check(self, row: dict[str, Any]) -> None:
        for name in (*self.layout.history_fields, *self.layout.current):
            if name not in row:
                raise ValueError(f"{name} must be there")

    def told(self, row: dict[str, Any], names: tuple[str, ...], part: str) -> dict[str, list[str]]:
        wire, event, history = self.layout.wire, self.market.event, self.market.history[0].name
        fields = {name: wire.field(history, part, name) for name in names}
        fields |= {
            "time": wire.event_field_name(history, part, event.time),
            "id": wire.event_field_name(history, part, event.id),
        }
        if row[fields["id"]] in self.missing:
            return {name: [] for name in fields}
        told = {name: row[field].split(wire.separator) for name, field in fields.items()}
        for name, values in told.items():
            if len(values) != len(told["id"]):
                raise ValueError(f"{name} must have as many values as ids")
        return told

    def align(self, one: dict[str, list[str]], other: dict[str, list[str]]) -> tuple[dict[str, list[str]], ...]:
        if one["id"] == other["id"]:
            return one, other
        known = set(one["id"]) & set(other["id"])
        found = []
        for told in (one, other):
            kept = [at for at, name in enumerate(told["id"]) if name in known]
            kept.sort(key=lambda at: float(told["time"][at]))
            found.append({name: [values[at] for at in kept] for name, values in told.items()})
        return tuple(found)

    def clean(self, name: str, value: str) -> str | None:
        if value in self.missing:
            return None
        if name in self.numeric:
            try:
                return str(int(float(value)))
            except ValueError:
                return value
        return value

    def index(self, name: str, value: str | None) -> int:
        if value is None:
            return self.vocabularies[name].missing_row
        return self.indices[name].get(value, self.vocabularies[name].unknown_row)

    def number(self, name: str, value: str) -> float | None:
        if value in self.missing:
            return None
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite (got {value})")
        return number

    def scale(self, name: str, value: float | None) -> float:
        scaler = self.scalers[name]
        if isinstance(scaler, ImportedScaler):
            return (scaler.default if value is None else value) * scaler.slope + scaler.offset
        if value is None:
            return 0.0
        moved = math.log1p(value) if scaler.transform == "log1p" else value
        return min(max((moved - scaler.centre) / scaler.width, -LIMIT), LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    market = Market.load(MARKET, ["label.delay_days=0"])
    with tempfile.TemporaryDirectory(prefix="tsa-wire-") as folder:
        repeated = simulated(market, options.rows, options.rows // PAYMENTS_EACH + 1, Path(folder) / "repeated.jsonl")
        encoder = prepare(market, repeated, Path(folder) / "store").encoder
        apart = apart_from_each_other(repeated, Path(folder) / "apart.jsonl", market)
        lines = repeated.read_bytes().splitlines()[-options.rows :]
        plain, reader = PlainReader(market, encoder), WireReader(market, encoder)
        check_same(plain, reader, lines[:50])
        size = sum(map(len, lines)) / len(lines)
        print(f"{options.rows} rows, {size / 1000:.0f} kB each as JSON, one thread")
        one_request(plain, reader, lines[:PLAIN_ROWS], options.rounds)
        for what, path in (("rows of a log", repeated), ("rows apart", apart)):
            batch(what, market, encoder, plain, path, options)


def simulated(market: Market, rows: int, customers: int, out: Path) -> Path:
    """The last rows of a simulated log: their histories are full."""
    whole = out.with_suffix(".all.jsonl")
    payments = max(rows * 2, rows + customers * PAYMENTS_EACH)
    write_wire(SimulationConfig(payments=payments, customers=customers, fraud_rate=0.02), market, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[-rows:]))
    whole.unlink()
    return out


def apart_from_each_other(path: Path, out: Path, market: Market) -> Path:
    """The same rows, but no two of them tell of the same payment: all times are moved by a second for each row."""
    layout = FieldLayout(market)
    times = [layout.history_fields[place] for place in layout.times]
    separator = layout.wire.separator
    with out.open("w", encoding="utf-8") as file:
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            for name in times:
                moved = [str(int(value) - at) for value in row[name].split(separator) if value]
                row[name] = separator.join(moved)
            file.write(json.dumps(row) + "\n")
    return out


def check_same(plain: PlainReader, reader: WireReader, lines: list[bytes]) -> None:
    features = len(plain.layout.numerical)
    for line in lines:
        expected, found = plain.read(line), reader.read(line)
        history = found.histories[plain.market.history[0].name]
        np.testing.assert_array_equal(history.categorical[0], expected["categorical"])
        np.testing.assert_allclose(history.numerical[0, :, :features], expected["numerical"], rtol=1e-6)
        np.testing.assert_array_equal(history.age_seconds[0], expected["age_seconds"])
        np.testing.assert_array_equal(history.padding[0], expected["padding"])
        wanted = expected["engineered"]
        np.testing.assert_allclose(found.engineered[0, : len(wanted)], wanted, rtol=1e-6)


def clock(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def one_request(plain: PlainReader, reader: WireReader, lines: list[bytes], rounds: int) -> None:
    ways: dict[str, Callable[[bytes], object]] = {
        "plain, to arrays": plain.read,
        "ours, to arrays": reader.read,
        "ours, to tensors": lambda line: request_batch(reader.read(line)),
    }
    taken = {name: np.empty((rounds, len(lines))) for name in ways}
    for turn in range(rounds):
        for at, line in enumerate(lines):
            for name, read in ways.items():
                taken[name][turn, at] = clock(lambda read=read, line=line: read(line))
    best = {name: float(np.median(found.min(0))) * 1e3 for name, found in taken.items()}
    print("\none request: median over rows of the best round")
    for name, milliseconds in best.items():
        ratio = best["plain, to arrays"] / milliseconds
        print(f"  {name:<18} {milliseconds:7.3f} ms   x {ratio:.1f}")


def batch(
    what: str, market: Market, encoder: Encoder, plain: PlainReader, path: Path, options: argparse.Namespace
) -> None:
    frame = pl.read_ndjson(path, infer_schema_length=None).cast(pl.String)
    dotted = frame.rename(lambda name: name.replace(".", "__DOT__"))
    files = {"JSON lines": path, "TSV": path.with_suffix(".tsv"), "Parquet": path.with_suffix(".parquet")}
    dotted.write_csv(files["TSV"], separator="\t")
    frame.write_parquet(files["Parquet"])
    with path.open("rb") as opened:
        lines = list(islice(opened, PLAIN_ROWS))
    out = path.with_name("timed")
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "plain, JSON lines": (len(lines), lambda: [plain.read(line) for line in lines])
    }
    for name, file in files.items():
        ways[f"ours, {name}"] = (len(frame), lambda file=file: prepare(market, file, out, encoder=encoder))
    best = dict.fromkeys(ways, math.inf)
    for _ in range(options.rounds):
        for name, (rows, work) in ways.items():
            best[name] = min(best[name], clock(work) / rows * 1e3)
    stored = prepare(market, path, out, encoder=encoder).manifest["n_stored"]
    print(f"\nbatch, {what}: {len(frame):,} payments, {stored - len(frame):,} earlier ones in the store; per row")
    for name, milliseconds in best.items():
        print(f"  {name:<18} {milliseconds:7.3f} ms   x {best['plain, JSON lines'] / milliseconds:.1f}")


if __name__ == "__main__":
    main()
