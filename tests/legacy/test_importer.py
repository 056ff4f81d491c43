"""An imported model scores as the legacy system did; whatever is missing, hostile or inconsistent is told, all at once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.legacy_folder import GOLDEN, Original, legacy_market, wire_rows
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.errors import ArtefactError
from tsa.inference.scorer import Scorer
from tsa.legacy.importer import ARTEFACTS, import_legacy
from tsa.legacy.response import legacy_response
from tsa.legacy.weights import reference_network
from tsa.model import Batch, History


def tensors_by_hand(original: Original, payments: pl.DataFrame) -> Batch:
    """What the legacy system makes of each payment, rule by rule: no code of the package's own way from rows to tensors."""
    rows, length = payments.to_dicts(), original.config["seq_len"]
    features = original.market.features
    names = {kind: [f.name for f in getattr(features, kind)] for kind in ("categorical", "numerical", "engineered")}

    def row_of(name: str, value: str | None) -> int:
        return int(original.cat_to_index[name].get(original.defaults[name] if value is None else value, 0))

    def scaled(kind: str, prefix: str, row: dict[str, Any]) -> list[float]:
        scale, least = (original.preprocessor[f"{prefix}_{end}_"] for end in ("scale", "min"))
        values = [float(original.defaults[n]) if row[n] is None else row[n] for n in names[kind]]
        return [value * a + b for value, a, b in zip(values, scale, least, strict=True)]

    n, wide = len(rows), (len(names["categorical"]), len(names["numerical"]))
    categorical, numerical = torch.zeros(n, length, wide[0], dtype=torch.int64), torch.zeros(n, length, wide[1])
    age, padding = torch.zeros(n, length), torch.ones(n, length, dtype=torch.bool)
    for at, row in enumerate(rows):
        events = [earlier for earlier in rows[: at + 1] if earlier["customer"] == row["customer"]][-length:]
        for place, event in enumerate(events, length - len(events)):
            categorical[at, place] = torch.tensor([row_of(name, event[name]) for name in names["categorical"]])
            numerical[at, place] = torch.tensor(scaled("numerical", "seq_num", event))
            age[at, place] = row["time"] - event["time"]
            padding[at, place] = False
    engineered = torch.tensor([scaled("engineered", "num_static", row) for row in rows])
    return Batch({"any": History(categorical, numerical, age, padding)}, engineered)


def percentile_by_hand(pairs: list[list[float]], raw: float) -> float:
    """Bisection, as the legacy system does it: an exact hit ends it."""
    low, high = 0, len(pairs) - 1
    while low <= high:
        middle = (low + high) // 2
        if pairs[middle][0] == raw:
            return pairs[min(middle + 1, len(pairs) - 1)][1]
        low, high = (middle + 1, high) if pairs[middle][0] < raw else (low, middle - 1)
    return pairs[min(low, len(pairs) - 1)][1]


def test_an_imported_model_gives_the_three_scores_of_the_original(
    original: Original, payments: pl.DataFrame, tmp_path: Path
) -> None:
    import_legacy(original.folder, original.market).save(tmp_path / "bundle")
    scores = Scorer.load(tmp_path / "bundle").score(payments)
    assert scores.columns == ["id", "raw_score", "percentile", "probability"]
    assert scores["id"].to_list() == payments["id"].to_list()
    with torch.inference_mode():
        batch = tensors_by_hand(original, payments)
        expected = reference_network(original.config, original.state)(batch).softmax(-1)[:, 1]
    np.testing.assert_allclose(scores["raw_score"], expected.numpy(), rtol=0, atol=1e-6)
    assert scores["raw_score"].n_unique() > 500
    for raw, percentile in scores.select("raw_score", "percentile").iter_rows():
        assert percentile == percentile_by_hand(original.scores["percentile_score"], raw)
    assert ((scores["probability"] > 0) & (scores["probability"] < 1)).all()
    assert scores.sort("raw_score")["probability"].is_sorted()


@pytest.mark.parametrize("form", ["jsonl", "tsv"])
def test_wire_rows_give_the_three_scores_of_the_original(
    original: Original, payments: pl.DataFrame, tmp_path: Path, form: str
) -> None:
    wire = {"separator": "~", "missing": ["", "My Text String"], "numeric_categorical": ["c5"], "rules": "own"}
    history = [{"name": "customer", "length": original.config["seq_len"]}]
    market = Market.from_dict(original.market.to_dict() | {"wire": wire, "history": history})
    import_legacy(original.folder, market).save(tmp_path / "bundle")
    rows, path = wire_rows(original, payments), tmp_path / f"rows.{form}"
    rows.write_ndjson(path) if form == "jsonl" else rows.write_csv(path, separator="\t")
    scores = Scorer.load(tmp_path / "bundle").score(path)
    by_id = scores.with_columns(pl.col("id").cast(pl.Int64)).sort("id")
    assert by_id["id"].to_list() == payments["id"].to_list()
    with torch.inference_mode():
        batch = tensors_by_hand(original, payments)
        expected = reference_network(original.config, original.state)(batch).softmax(-1)[:, 1]
    np.testing.assert_allclose(by_id["raw_score"], expected.numpy(), rtol=0, atol=1e-6)
    for raw, percentile in by_id.select("raw_score", "percentile").iter_rows():
        assert percentile == percentile_by_hand(original.scores["percentile_score"], raw)


def test_the_default_of_times_comes_along(original: Original, tmp_path: Path) -> None:
    """Of an earlier payment's time. One that the market file gives must be the same."""
    wire = {"separator": "~", "missing": [""], "numeric_categorical": ["c5"]}
    history = [{"name": "customer", "length": original.config["seq_len"]}]
    table = original.market.to_dict() | {"history": history}
    change(original.folder, "default_value_dict.json", lambda found: found.update(time="0"))
    import_legacy(original.folder, Market.from_dict(table | {"wire": wire})).save(tmp_path / "bundle")
    found = Bundle.open(tmp_path / "bundle").market.wire
    assert found is not None
    assert found.defaults == {"time": "0", "id": ""}
    with pytest.raises(ArtefactError, match=r"wire\.defaults\.time: must be '0' as in default_value_dict"):
        import_legacy(original.folder, Market.from_dict(table | {"wire": {**wire, "defaults": {"time": 9}}}))


def test_an_imported_bundle_is_one_like_any_other(original: Original, tmp_path: Path) -> None:
    made = import_legacy(original.folder, original.market)
    made.save(tmp_path / "bundle")
    again = Bundle.open(tmp_path / "bundle")
    assert (again.encoder, again.calibration, again.config) == (made.encoder, made.calibration, made.config)
    assert again.training["imported"]["arguments"] == original.config
    assert set(again.training["imported"]["files"]) == {path.name for path in original.folder.iterdir()}
    assert again.config.histories == ("customer",)


@pytest.mark.parametrize(
    "form", ["safetensors", "plain.pt", "plain.PT", "pytorch_model.bin", "checkpoint.pth", "compiled.pt", "both.pt"]
)
def test_weights_in_any_form(original: Original, form: str) -> None:
    (original.folder / "best.pt").unlink()
    state = original.state
    if form == "safetensors":
        save_file(state, original.folder / "weights.safetensors")
    elif form in ("compiled.pt", "both.pt"):
        prefix = "_orig_mod." if form == "compiled.pt" else "module._orig_mod."
        torch.save({prefix + name: value for name, value in state.items()}, original.folder / form)
    elif form != "checkpoint.pth":
        torch.save(state, original.folder / form)
    else:
        torch.save({"model": state, "epoch": 3, "optimizer": {"lr": 1e-3}}, original.folder / form)
    network = import_legacy(original.folder, original.market).network
    assert torch.equal(network.table.weight, state["embedding.weight"])


def test_arguments_may_be_texts(original: Original) -> None:
    """As hyperparameters of training jobs are: "0" and "False" mean no."""
    plain = import_legacy(original.folder, original.market).config
    for spelled in (str, lambda value: str(float(value)), lambda value: f" {value} ".upper()):
        change(
            original.folder, "config.json", lambda t, spelled=spelled: t.update({k: spelled(v) for k, v in t.items()})
        )
        assert import_legacy(original.folder, original.market).config == plain
        (original.folder / "config.json").write_text(json.dumps(original.config))
    change(original.folder, "config.json", lambda t: t.update(use_mlp="maybe"))
    with pytest.raises(ArtefactError, match="could not convert string to float: 'maybe'"):
        import_legacy(original.folder, original.market)


def test_files_of_other_programs_in_the_folder(original: Original) -> None:
    for name in ("._best.pt", "._config.json", ".DS_Store", "README.md"):
        (original.folder / name).write_text("x")
    (original.folder / "code").mkdir()
    assert import_legacy(original.folder, original.market).config.n_categorical == original.config["n_cat_features"]


def test_a_spline_as_r_writes_it(original: Original) -> None:
    """R writes single values as lists of one."""
    plain = import_legacy(original.folder, original.market)
    change(original.folder, "bspline_parameters.json", lambda t: t.update(degree=[3], status=["Success"]))
    assert import_legacy(original.folder, original.market).calibration == plain.calibration


def test_two_histories_by_name_and_by_order(original: Original) -> None:
    config = json.loads((GOLDEN / "two_sequence.config.json").read_text())
    (original.folder / "config.json").write_text(json.dumps(config))
    state = load_file(GOLDEN / "two_sequence.weights.safetensors")
    torch.save(state, original.folder / "best.pt")
    last = config["n_embedding"] - config["n_num_features"]
    n = {name: config[name] for name in ("n_cat_features", "n_num_features", "n_engineered_num_features")}
    names = {"c": n["n_cat_features"], "n": n["n_num_features"], "g": n["n_engineered_num_features"]}
    cat = {f"c{i}": {"-1": "0", "a": last} for i in range(names["c"])}
    (original.folder / "cat_to_index.json").write_text(json.dumps(cat))
    defaults = {f"{letter}{i}": "-1" for letter, count in names.items() for i in range(count)}
    (original.folder / "default_value_dict.json").write_text(json.dumps(defaults))
    sizes = {"seq_num": names["n"], "num_static": names["g"]}
    table = {f"{k}_{end}_": np.zeros(size) for k, size in sizes.items() for end in ("scale", "min")}
    (original.folder / "preprocessor.pkl").write_bytes(pickle.dumps(table))
    tensors = load_file(GOLDEN / "two_sequence.tensors.safetensors")
    fields = ("categorical", "numerical", "age_seconds", "padding")
    histories = {name: History(*(tensors[f"{field}_{name}"] for field in fields)) for name in ("cid", "ccid")}
    for first, second, named in (("customer", "card", ("customer", "card")), ("ccid", "cid", ("cid", "ccid"))):
        history = [{"name": name, "key": name, "length": config["seq_len"]} for name in (first, second)]
        market = Market.from_dict(legacy_market(config, history=history))
        network = import_legacy(original.folder, market).network
        assert network.config.histories == named
        batch = Batch(dict(zip(named, histories.values(), strict=True)), tensors["engineered"])
        with torch.inference_mode():
            torch.testing.assert_close(network(batch), tensors["scores"], atol=1e-5, rtol=0)
    one = Market.from_dict(legacy_market(config))
    with pytest.raises(ArtefactError, match="history: the weights are of 2 histories, but the market has customer"):
        import_legacy(original.folder, one)


def change(folder: Path, name: str, edit: Any) -> None:
    """Edit the plain content of an artefact."""
    path = folder / name
    content = pickle.loads(path.read_bytes()) if name.endswith(".pkl") else json.loads(path.read_text())
    edit(content)
    path.write_bytes(pickle.dumps(content) if name.endswith(".pkl") else json.dumps(content).encode())


def dropped(*keys: str) -> Any:
    return lambda table: [table.pop(key) for key in keys]


def nested(levels: int) -> list[Any]:
    """Small in a file, since each level holds the next one ten times over; spelled out it is 10^levels long."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found] * 10
    return found


BROKEN = {
    "index beyond the table": (
        "cat_to_index.json",
        lambda t: t["c3"].update(b=125),
        r"rows of 'c3' must be .* 124 [(]got 'b': 125",
    ),
    "index that is none": (
        "cat_to_index.json",
        lambda t: t["c3"].update(b="x", a=-1),
        "rows of 'c3' must be integers from 0",
    ),
    "feature without map": ("cat_to_index.json", dropped("c7"), "cat_to_index: 'c7' is required"),
    "feature without default": ("default_value_dict.json", dropped("c2"), "default_value_dict: 'c2' has no default"),
    "number without default": ("default_value_dict.json", dropped("g2"), "default_value_dict: 'g2' has no default"),
    "default that is none": (
        "default_value_dict.json",
        lambda t: t.update(n1=""),
        "'n1' must be a number [(]got ''",
    ),
    "scaler too short": (
        "preprocessor.pkl",
        lambda t: t.update(seq_num_min_=[1.0] * 35),
        "seq_num_min_ must have 36 numbers",
    ),
    "scaler missing": ("preprocessor.pkl", dropped("num_static_scale_"), "num_static_scale_ must be a list of numbers"),
    "scale not finite": (
        "preprocessor.pkl",
        lambda t: t["seq_num_scale_"].__setitem__(4, np.nan),
        "must hold finite .* at 4",
    ),
    "wrong count": (
        "config.json",
        lambda t: t.update(n_num_features=35),
        "features.numerical: must be as many as n_num_features=35",
    ),
    "wrong length": (
        "config.json",
        lambda t: t.update(seq_len=51),
        "history customer: length must be seq_len=51 [(]got 12",
    ),
    "argument missing": (
        "config.json",
        dropped("n_embedding"),
        r"best\.pt: constructor arguments: missing \['n_embedding'\]",
    ),
    "percentiles fall": (
        "percentile_score.pkl",
        lambda t: t.reverse(),
        "percentile_score.pkl must hold ascending pairs",
    ),
    "no pairs": ("percentile_score.pkl", lambda t: t.clear(), "percentile_score.pkl must hold ascending pairs"),
    "spline failed": (
        "bspline_parameters.json",
        lambda t: t.update(status="Failed"),
        "status must be 'Success' [(]got 'Failed'",
    ),
    "coefficient missing": (
        "bspline_parameters.json",
        lambda t: t["coefficients"].pop(),
        "as many coefficients as knots less 4",
    ),
    "scales by number": (
        "preprocessor.pkl",
        lambda t: t.update(seq_num_min_=dict(enumerate(t["seq_num_min_"]))),
        "seq_num_min_ must be a list of numbers",
    ),
    "scales that are truths": (
        "preprocessor.pkl",
        lambda t: t.update(seq_num_min_=np.ones(36, bool)),
        "seq_num_min_ must hold finite numbers",
    ),
    "scale of many levels": (
        "preprocessor.pkl",
        lambda t: t.update(seq_num_scale_=[*t["seq_num_scale_"][:4], nested(12), *t["seq_num_scale_"][5:]]),
        r"must hold finite numbers [(]got .{1,80} at 4[)]$",
    ),
    "default that is a list": (
        "default_value_dict.json",
        lambda t: t.update(c3=["a"]),
        r"'c3' must be a text or a number [(]got \['a'\]",
    ),
    "knots missing": ("bspline_parameters.json", dropped("knots"), "must hold knots, coefficients and degree"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_named(original: Original, case: str) -> None:
    name, edit, text = BROKEN[case]
    change(original.folder, name, edit)
    with pytest.raises(ArtefactError, match=text):
        import_legacy(original.folder, original.market)


@pytest.mark.parametrize("spelled", [160.0, "160"])
def test_a_row_beyond_the_table_is_found_however_its_size_is_spelled(original: Original, spelled: object) -> None:
    assert original.config["n_embedding"] == int(float(str(spelled)))
    change(original.folder, "config.json", lambda t: t.update(n_embedding=spelled))
    change(original.folder, "cat_to_index.json", lambda t: t["c3"].update(b=500))
    with pytest.raises(ArtefactError, match=r"rows of 'c3' must be .* 124 [(]got 'b': 500"):
        import_legacy(original.folder, original.market)


@pytest.mark.parametrize("kind", ["complex", "sparse"])
def test_tensors_of_other_kinds_are_told(original: Original, kind: str) -> None:
    bias = original.state["clf.3.bias"]
    other = bias.to(torch.complex64) if kind == "complex" else bias.to_sparse()
    torch.save(original.state | {"clf.3.bias": other}, original.folder / "best.pt")
    with pytest.raises(ArtefactError, match=r"clf\.3\.bias must contain plain numbers"):
        import_legacy(original.folder, original.market)


def test_a_time_that_is_none_is_told_with_the_rest(original: Original) -> None:
    table = original.market.to_dict() | {"wire": {"separator": "~"}}
    for name, value in (("time", "soon"), ("c3", None)):
        change(original.folder, "default_value_dict.json", lambda t, name=name, value=value: t.update({name: value}))
    with pytest.raises(ArtefactError, match="2 findings") as error:
        import_legacy(original.folder, Market.from_dict(table))
    assert "default_value_dict: 'time' must be a number (got 'soon'" in str(error.value)


def test_features_that_are_veiled_are_known_by_their_pseudonyms(
    original: Original, payments: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_TESTS", "a secret that is long enough for HMAC")
    veiled = {"privacy": {"pseudonymise": ["c3", "c4"], "secret_env": "SECRET_OF_TESTS"}}
    made = import_legacy(original.folder, Market.from_dict(original.market.to_dict() | veiled))
    assert not set(original.cat_to_index["c3"]) & set(made.encoder.categorical_vocabularies[3].values)
    plain = Scorer(import_legacy(original.folder, original.market)).score(payments)
    np.testing.assert_array_equal(Scorer(made).score(payments)["raw_score"], plain["raw_score"])


def test_everything_is_told_at_once(original: Original, tmp_path: Path) -> None:
    edits = [case for case in BROKEN.values() if case[0] not in ("percentile_score.pkl", "config.json")]
    for name, edit, _ in edits[:11]:
        change(original.folder, name, edit)
    (original.folder / "percentile_score.pkl").write_bytes(b"")
    torch.save(original.state | {"clf.3.bias": torch.zeros(7), "odd": torch.zeros(1)}, original.folder / "best.pt")
    market = original.market.override(["features.calendar=['month']"])
    with pytest.raises(ArtefactError) as error:
        import_legacy(original.folder, market)
    message = str(error.value)
    for text in ("percentile_score.pkl cannot be read", "clf.3.bias must be (2,)", "odd is unexpected", "calendar"):
        assert text in message
    for text in ("'c3'", "'c7'", "'c2'", "'g2'", "'n1'", "seq_num_min_", "num_static_scale_", "status"):
        assert text in message
    assert f"{message.count(chr(10))} findings" in message.splitlines()[0]


def test_defaults_of_the_market_file_must_be_the_models(original: Original) -> None:
    wire = {"separator": "~", "defaults": {"c0": "-1", "c4": "-1.0", "n0": "-7", "n1": f"{original.defaults['n1']}.0"}}
    market = Market.from_dict(original.market.to_dict() | {"wire": wire})
    with pytest.raises(ArtefactError) as error:
        import_legacy(original.folder, market)
    assert "wire.defaults.c4: must be '-1'" in str(error.value)
    assert "wire.defaults.n0: must be" in str(error.value)
    assert str(error.value).count("wire.defaults") == 2


def faulty_scales(original: Original) -> None:
    """The static scales as EU's real folder has them: two numbers that belong to no feature, and one default missing."""
    for name in ("num_static_scale_", "num_static_min_"):
        values = original.preprocessor[name]
        change(
            original.folder,
            "preprocessor.pkl",
            lambda t, name=name, values=values: t.update({name: [*values[:1], 7.0, 8.0, *values[1:]]}),
        )
    change(original.folder, "default_value_dict.json", dropped("g2"))


def test_positions_of_no_feature_and_defaults_that_are_missing(original: Original, payments: pl.DataFrame) -> None:
    wanted = Scorer(import_legacy(original.folder, original.market)).score(payments)
    faulty_scales(original)
    count = len(original.market.features.engineered)
    with pytest.raises(ArtefactError, match="3 findings") as error:
        import_legacy(original.folder, original.market)
    for text in (
        f"num_static_scale_ must have {count} numbers, one per engineered feature (got {count + 2} (2 too many)",
        f"num_static_min_ must have {count} numbers",
        "--leave-out engineered=P,P or legacy.leave_out.engineered in the market file",
        "default_value_dict: 'g2' has no default: add the value for a missing one to [legacy.defaults]",
    ):
        assert text in str(error.value)
    told = {"leave_out": {"engineered": [2, 1]}, "defaults": {"g2": original.defaults["g2"]}}
    market = Market.from_dict({**original.market.to_dict(), "legacy": told})
    assert market.fingerprint == original.market.fingerprint
    made = import_legacy(original.folder, market)
    np.testing.assert_array_equal(Scorer(made).score(payments)["raw_score"], wanted["raw_score"])
    notes = " ".join(made.training["imported"]["notes"])
    assert f"num_static_min_: 2 of {count + 2} numbers are left out, at [1, 2]" in notes
    assert f"no default of g2 '{original.defaults['g2']}': taken from the market file" in notes


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"leave_out": {"engineered": [1]}}, "(1 too many)"),
        (
            {"leave_out": {"engineered": [1, 99]}},
            r"legacy.leave_out.engineered: must be positions of num_static_scale_",
        ),
        (
            {"leave_out": {"numerical": [0]}},
            "seq_num_scale_ must have 36 numbers, one per numerical feature (got 35",
        ),
        ({"defaults": {"g1": "77"}}, "legacy.defaults.g1: must be "),
    ],
)
def test_what_the_market_file_says_of_the_folder_must_fit(original: Original, told: dict[str, Any], text: str) -> None:
    faulty_scales(original)
    with pytest.raises(ArtefactError) as error:
        import_legacy(original.folder, Market.from_dict({**original.market.to_dict(), "legacy": told}))
    assert text in str(error.value)


def test_the_wire_tables_defaults_serve_as_well(original: Original) -> None:
    change(original.folder, "default_value_dict.json", dropped("g2"))
    wire = {"separator": "~", "defaults": {"g2": "3.5"}}
    made = import_legacy(original.folder, Market.from_dict(original.market.to_dict() | {"wire": wire}))
    assert made.encoder.engineered_scaling.scalers[2].to_dict()["default"] == 3.5


def test_without_percentiles_there_is_a_bundle_that_says_so(original: Original, payments: pl.DataFrame) -> None:
    (original.folder / "percentile_score.pkl").unlink()
    made = import_legacy(original.folder, original.market)
    assert made.calibration is not None
    assert "There is no percentile score: the imported folder had no percentile_score.pkl" in str(made.calibration.note)
    scores = Scorer(made).score(payments)
    assert scores.columns == ["id", "raw_score", "probability"]
    assert list(legacy_response([0.5], made.calibration)["predictions"][0]) == ["legacy-score", "ProbabilityScore"]


@pytest.mark.parametrize("case", ["missing", "neither"])
def test_without_a_spline_there_is_a_bundle_that_says_so(original: Original, payments: pl.DataFrame, case: str) -> None:
    (original.folder / "bspline_parameters.json").unlink()
    if case == "neither":
        (original.folder / "percentile_score.pkl").unlink()
    made = import_legacy(original.folder, original.market)
    assert made.calibration is not None
    assert "had no bspline_parameters.json" in made.calibration.reasons["probability"]
    assert any("There is no probability score" in note for note in made.training["imported"]["notes"])
    columns = ["id", "raw_score", *(["percentile"] if case != "neither" else [])]
    assert Scorer(made).score(payments).columns == columns
    assert "ProbabilityScore" not in legacy_response([0.5], made.calibration)["predictions"][0]
    made.save(original.folder.parent / f"{case}.bundle")
    assert Bundle.open(original.folder.parent / f"{case}.bundle").calibration == made.calibration


@pytest.mark.parametrize("key", ["knots", "coefficients"])
def test_a_spline_that_falls_by_rounding_is_lifted(original: Original, key: str) -> None:
    plain = import_legacy(original.folder, original.market)

    def fall(by: float) -> Any:
        return lambda t: t[key].__setitem__(6, t[key][5] - by)

    path = original.folder / "bspline_parameters.json"
    before = path.read_bytes()
    table = json.loads(before)
    table[key][6] = table[key][5]
    path.write_text(json.dumps(table))
    level = import_legacy(original.folder, original.market)
    path.write_bytes(before)
    change(original.folder, "bspline_parameters.json", fall(1e-8))
    made = import_legacy(original.folder, original.market)
    raw = np.linspace(0, 1, 5001)
    probability = made.calibration.probability(raw)
    assert (np.diff(probability) >= 0).all()
    np.testing.assert_array_equal(probability, level.calibration.probability(raw))
    assert (
        f"1 of {len(table[key])} {key} decrease because of rounding, by 1e-08 at most"
        in made.training["imported"]["notes"][0]
    )
    assert plain.training["imported"]["notes"] == []
    path.write_bytes(before)
    change(original.folder, "bspline_parameters.json", fall(1e-4))
    with pytest.raises(ArtefactError, match="must not fall"):
        import_legacy(original.folder, original.market)


def test_quantiles_that_fall_by_rounding_are_lifted(original: Original) -> None:
    change(original.folder, "percentile_score.pkl", lambda t: t[9].__setitem__(0, t[8][0] - 1e-12))
    made = import_legacy(original.folder, original.market)
    assert made.calibration.percentile.scores[9] == made.calibration.percentile.scores[8]
    assert "scores decrease because of rounding" in made.training["imported"]["notes"][0]


@pytest.mark.parametrize("name", [*ARTEFACTS, "config.json", "best.pt"])
def test_a_missing_or_torn_file_is_named(original: Original, name: str) -> None:
    path = original.folder / name
    content = path.read_bytes()
    path.unlink()
    if name not in ("percentile_score.pkl", "bspline_parameters.json"):  # without these, a score is missing
        with pytest.raises(ArtefactError, match="is missing"):
            import_legacy(original.folder, original.market)
    for torn in (b"", content[: len(content) // 2], b"\xff" * 40):
        path.write_bytes(torn)
        with pytest.raises(ArtefactError, match=rf"{name}.*cannot be read"):
            import_legacy(original.folder, original.market)


def test_files_that_could_be_either_are_to_be_named(original: Original) -> None:
    torch.save({}, original.folder / "last.pt")
    (original.folder / "notes.json").write_text("{}")
    with pytest.raises(ArtefactError) as error:
        import_legacy(original.folder, original.market)
    assert "weights: must be one file, or be named by --weights (got best.pt, last.pt" in str(error.value)
    assert "constructor arguments: must be one file, or be named by --config" in str(error.value)
    named = {"weights": original.folder / "best.pt", "config": original.folder / "config.json"}
    assert import_legacy(original.folder, original.market, **named).network is not None
    with pytest.raises(ArtefactError, match="must be a folder"):
        import_legacy(original.folder / "best.pt", original.market)


class Hostile:
    """Runs a command where a pickle of it is loaded by pickle itself."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["best.pt", "preprocessor.pkl", "percentile_score.pkl"])
def test_nothing_is_executed(original: Original, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    path = original.folder / name
    torch.save({"a": Hostile(mark)}, path) if name == "best.pt" else path.write_bytes(pickle.dumps([Hostile(mark)]))
    with pytest.raises(ArtefactError, match=rf"{name}.*it asks for ") as error:
        import_legacy(original.folder, original.market)
    assert "weights_only" not in str(error.value)  # torch's own text tells how to load them all the same
    assert not mark.exists()
