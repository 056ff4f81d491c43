"""The public benchmark: files are made as they say and checked, and its page says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from tsa.config.market import Market

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = BENCHMARKS.parents[1] / "shared" / "data" / "public"


@pytest.fixture(scope="module")
def public() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import public

        yield public
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("public", "public_catalogue", "public_page"):
            sys.modules.pop(name, None)


def test_every_market_file_can_be_read(public: ModuleType) -> None:
    for name, one in public.SETS.items():
        assert Market.load(one.market).name == name
        assert one.sha256 is None or len(one.sha256) == 64


def test_the_readme_has_the_results(public: ModuleType) -> None:
    """`public.py` writes them; after a merge: `public.with_results(README, results)`."""
    readme, results = public.README.read_text(encoding="utf-8"), json.loads(public.JSON.read_text(encoding="utf-8"))
    assert public.with_results(readme, results) == readme


def test_bitcoin_alpha_is_made_of_the_raw_ratings(public: ModuleType, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("7,8,-5,1407470400\n9,7,-4,1289192400\n7,9,10,1289192400\n")
    made = public.SETS["bitcoin_alpha"].convert(raw)
    assert made["id"].to_list() == [0, 1, 2]
    assert made["src"].to_list() == ["9", "7", "7"]
    assert made["distrust"].to_list() == [0, 0, 1]
    assert str(made["time"][0]) == "2010-11-08 05:00:00"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sets are not at hand")
def test_bitcoin_alpha_is_the_file_that_is_checked(public: ModuleType, tmp_path: Path) -> None:
    expected = pl.read_parquet(public.file_of("bitcoin_alpha", SHARED))
    seconds = expected["time"].dt.epoch("s")
    raw = expected.select("src", "dst", "rating", seconds.alias("seconds"))
    raw.write_csv(tmp_path / "raw.csv", include_header=False)
    assert public.SETS["bitcoin_alpha"].convert(tmp_path / "raw.csv").equals(expected)
    for name in ("retail", "f1_dnf_frozen", "completejourney"):
        public.file_of(name, SHARED)


def test_sparkov_is_made_of_the_generators_files(public: ModuleType, tmp_path: Path) -> None:
    head = "cc_num|gender|state|city_pop|trans_num|unix_time|category|amt|is_fraud|merchant"
    (tmp_path / "adults.csv").write_text(f"{head}\n4000111122223333444|F|OH|900|b|1546300900|home|12.5|0|fraud_X\n")
    (tmp_path / "young.csv").write_text(f"{head}\n0604|M|TX|12|a|1546300800|gas_transport|3|1|fraud_Y\n")
    (tmp_path / "customers.csv").write_text("ssn|cc_num\n1|2\n")
    made = public.SETS["sparkov"].convert(tmp_path)
    assert made["cc_num"].to_list() == ["0604", "4000111122223333444"]
    assert made["id"].to_list() == [0, 1]
    market = Market.load(public.SETS["sparkov"].market)
    names = {market.event.id, market.event.time, market.event.amount, market.label.column}
    names |= {history.key for history in market.history} | set(market.features.names)
    assert names == set(made.columns)


def test_a_missing_or_changed_file_is_not_used(public: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(SystemExit, match=r"is missing(.|\n)*snap\.stanford\.edu"):
        public.file_of("bitcoin_alpha", folder)
    (folder / "bitcoin_alpha.parquet").write_bytes(b"other")
    with pytest.raises(SystemExit, match="must have the sha256 8130978759"):
        public.file_of("bitcoin_alpha", folder)


def test_a_set_is_measured_and_the_page_says_what_was(
    public: ModuleType, demo_log: Path, demo_market: Path, tmp_path: Path
) -> None:
    one = public.PublicSet(
        question="Is it fraud?", source="simulated", how="-", sha256=None, market=demo_market, file="demo.parquet"
    )
    small = [
        "model.width=8",
        "model.n_heads=2",
        "model.feedforward_width=16",
        "training.epochs=1",
        "training.batch_size=64",
    ]
    runs = [public.measure(one, demo_log, seed, small) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        assert run["seed"] == seed
        assert set(run["columns"]) == {"model", "network", "trees", "baseline"}
        for column in run["columns"].values():
            assert 0 < column["average_precision"]["low"] <= column["average_precision"]["value"] <= 1
        difference = run["differences"]["baseline"]
        values = [run["columns"][name]["average_precision"]["value"] for name in ("model", "baseline")]
        assert difference["difference"] == pytest.approx(values[0] - values[1])
    out, page = tmp_path / "public.json", tmp_path / "page.md"
    public.save("bitcoin_alpha", runs, small, out, page)
    public.save("retail", runs[:1], [], out, page)
    text = page.read_text()
    assert text.index("## bitcoin_alpha") < text.index("## retail")
    assert "| seed 1 (" in text
    assert text.count("mean ± standard deviation") == 1
    assert "with seed 0: " in text
    assert "no result is recorded for: bitcoin_alpha_accounts, f1" in text
    assert all(len(line) <= 100 or line.startswith("|") for line in text.splitlines())
    public.save("retail", [{**runs[1], "seed": 2}], [], out, page, add=True)
    public.save("retail", runs[1:], [], out, page, add=True)
    assert [run["seed"] for run in json.loads(out.read_text())["retail"]["runs"]] == [0, 1, 2]
    with pytest.raises(SystemExit, match="one environment for all seeds"):
        public.save("retail", runs[:1], small, out, page, add=True)
