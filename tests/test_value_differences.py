"""Where two trees of plain values differ."""

from tsa.value_differences import differences, differing_keys


def test_equal_trees() -> None:
    assert list(differences({"a": [1, {"b": None}]}, {"a": [1, {}]})) == []
    assert list(differences(3, 3)) == []


def test_each_difference_has_its_place() -> None:
    one = {"a": {"b": [1, 2], "c": 3}, "only": 1}
    other = {"a": {"b": [1, 5], "c": 3}, "other": "x"}
    assert list(differences(one, other)) == ["a.b.1: 2, 5", "only: 1, None", "other: None, 'x'"]


def test_lists_of_different_lengths_are_one_difference() -> None:
    assert list(differences({"a": [1, 2]}, {"a": [1]})) == ["a: [1, 2], [1]"]
    assert list(differences([1, [2]], [1, [3]])) == ["1.0: 2, 3"]


def test_another_kind_of_value() -> None:
    assert list(differences({"a": {"b": 1}}, {"a": 1})) == ["a: {'b': 1}, 1"]
    assert list(differences({1: "x"}, {1: "y"})) == ["1: 'x', 'y'"]


def test_long_values_are_shortened_and_hashes_are_not() -> None:
    (line,) = differences({"a": "x" * 500}, {"a": "y"})
    assert len(line) < 120
    assert list(differences("a" * 64, "b" * 64, "sha256")) == [f"sha256: '{'a' * 64}', '{'b' * 64}'"]


def test_keys_with_short_values() -> None:
    one = {"name": "demo", "history": [{"length": 3}], "label": {"column": "x" * 99, "delay": 3}}
    other = {"name": "eu", "history": [{"length": 4}], "label": {"column": "y", "delay": 3}, "new": 1}
    assert differing_keys(one, other) == "name ('demo', 'eu'), history, label.column, new (none, 1)"
    assert differing_keys(one, one) == ""
    many = differing_keys({str(at): at for at in range(20)}, {})
    assert many.endswith("and 8 more")
