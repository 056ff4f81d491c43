"""Versions and aliases of a registry: immutable, complete, verified, and moved by one at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tsa
from support.endpoint import WIRE, made_bundle
from tsa.bundle.bundle import Bundle, set_decision_policy
from tsa.bundle.signing import make_keys, read_bundle, sign
from tsa.errors import BundleError, ConfigError, RegistryError
from tsa.registry import FolderStorage, ObjectPlace, Registry
from tsa.registry.registry import _in_force


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles of one market with other weights, the second with decisions."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = [made_bundle(folder / str(seed), seed=seed) for seed in range(3)]
    set_decision_policy(paths[1], ["review=0.9"], score="raw_score")
    return paths


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return tsa.Registry.open(str(tmp_path / "registry"))


def root_of(registry: Registry) -> Path:
    """The folder that a registry is in."""
    assert isinstance(registry.place, ObjectPlace)
    assert isinstance(registry.place.storage, FolderStorage)
    return registry.place.storage.root


def sha_of(path: Path) -> str:
    return str(Bundle.open(path).sha256)


def test_what_is_published_can_be_pulled_to_the_byte(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    version = registry.publish(bundles[1], by="ann", note="of May")
    assert (version.sha256, version.by, version.note, version.decisions) == (
        sha_of(bundles[1]),
        "ann",
        "of May",
        ("review",),
    )
    for out in (tmp_path / "pulled", tmp_path / "pulled.tar.gz"):
        assert registry.pull(version.short, out) == version
        assert read_bundle(out) == read_bundle(bundles[1])


def test_publishing_twice_is_one_version(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    first = registry.publish(bundles[0], by="ann")
    Bundle.open(bundles[0]).save(tmp_path / "same.tar.gz")
    assert registry.publish(tmp_path / "same.tar.gz", by="bob") == first
    assert registry.versions() == [first]


def test_a_signature_may_be_added_later(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles[0], tmp_path / "bundle"))
    assert registry.publish(bundle, by="ann").signed_by is None
    make_keys(tmp_path / "private", tmp_path / "public")
    key = sign(bundle, (tmp_path / "private").read_bytes())
    assert registry.publish(bundle, by="ann").signed_by == key
    registry.pull(sha_of(bundle), tmp_path / "pulled")
    Bundle.open(tmp_path / "pulled", key=(tmp_path / "public").read_bytes())


def test_a_registry_may_demand_signatures(bundles: list[Path], tmp_path: Path) -> None:
    make_keys(tmp_path / "private", tmp_path / "public")
    make_keys(tmp_path / "other", tmp_path / "other.pub")
    url = f"file://{tmp_path}/registry"
    Registry.create(url, (tmp_path / "public").read_bytes())
    with pytest.raises(RegistryError, match="is a registry already"):
        Registry.create(url)
    bundle = Path(shutil.copytree(bundles[0], tmp_path / "bundle"))
    for private in (None, "other"):
        if private:
            sign(bundle, (tmp_path / private).read_bytes())
        with pytest.raises(BundleError, match="must be signed with the key"):
            Registry.open(url).publish(bundle, by="ann")
    assert Registry.open(url).versions() == []
    sign(bundle, (tmp_path / "private").read_bytes())
    version = Registry.open(url).publish(bundle, by="ann")
    signature = tmp_path / "registry" / "versions" / version.sha256 / "signature.json"
    signature.unlink()
    for use in (Registry.open(url).promote, lambda name, by: Registry.open(url).pull(name, tmp_path / "out")):
        with pytest.raises(BundleError, match="must be signed with the key"):
            use(version.short, by="ann")


def test_aliases_are_moved_and_rolled_back_step_by_step(registry: Registry, bundles: list[Path]) -> None:
    shas = [registry.publish(path, by="ann").sha256 for path in bundles]
    for sha in shas:
        registry.promote(sha, by="ann", why="better", evidence={"gain": 0.1})
    assert registry.resolve("champion").sha256 == shas[2]
    assert registry.promote(shas[2], by="bob").number == 3  # nothing to do
    for sha in (shas[1], shas[0]):
        assert registry.rollback(by="bob", why="alarms").sha256 == sha
        assert registry.resolve("champion").sha256 == sha
    with pytest.raises(RegistryError, match="champion has no version before"):
        registry.rollback(by="bob")
    registry.promote(shas[2][:8], by="ann")
    history = registry.history("champion")
    assert [(e.number, e.action, e.by) for e in history][2:5] == [
        (3, "promote", "ann"),
        (4, "rollback", "bob"),
        (5, "rollback", "bob"),
    ]
    assert history[0].evidence == {"gain": 0.1}
    assert _in_force(history) == [shas[0], shas[2]]
    assert registry.promote("champion", "challenger", by="ann").sha256 == shas[2]
    assert {name: entry.sha256 for name, entry in registry.aliases().items()} == dict.fromkeys(
        ("challenger", "champion"), shas[2]
    )


def test_of_promotions_at_the_same_time_one_wins_and_the_others_are_told(
    registry: Registry, bundles: list[Path]
) -> None:
    shas = [registry.publish(path, by="ann").sha256 for path in bundles]
    before = registry.history("champion")
    assert before == []

    def move(sha: str) -> str:
        """As `promote`, after all have read the same history."""
        try:
            return registry._move("champion", [], sha, "promote", by=sha[:6], why="", evidence=None).sha256
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(move, shas))
    won = [answer for answer in answers if answer in shas]
    assert len(won) == 1
    assert registry.resolve("champion").sha256 == won[0]
    assert len(registry.history("champion")) == 1
    for answer in answers:
        assert answer in won or f"{won[0][:6]} moved champion to {won[0][:12]} at the same time" in answer


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("champion", "no alias or version 'champion' (its aliases: none)"),
        ("0" * 12, "no alias or version"),
        ("../../etc", "no alias or version"),
        ("a" * 5, "no alias or version"),
    ],
)
def test_unknown_names_are_refused(registry: Registry, bundles: list[Path], name: str, rule: str) -> None:
    registry.publish(bundles[0], by="ann")
    with pytest.raises(RegistryError) as refused:
        registry.resolve(name)
    assert rule in str(refused.value)


@pytest.mark.parametrize("alias", ["", "Champion", "../up", "a/b", "a" * 65, "abcdef"])
def test_aliases_that_are_no_names_are_refused(registry: Registry, bundles: list[Path], alias: str) -> None:
    version = registry.publish(bundles[0], by="ann")
    with pytest.raises(RegistryError, match="an alias must begin with a lower-case letter"):
        registry.promote(version.sha256, alias, by="ann")
    assert registry.aliases() == {}


def test_a_version_that_is_half_uploaded_does_not_exist(registry: Registry, bundles: list[Path]) -> None:
    version = registry.publish(bundles[0], by="ann")
    (root_of(registry) / "versions" / version.sha256 / "version.json").unlink()
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="no alias or version"):
        registry.promote(version.short, by="ann")
    assert registry.publish(bundles[0], by="bob").by == "bob"


@pytest.mark.parametrize("damage", ["altered", "cut", "other", "missing"])
def test_an_altered_bundle_is_neither_promoted_nor_pulled(
    registry: Registry, bundles: list[Path], tmp_path: Path, damage: str
) -> None:
    version, other = (registry.publish(path, by="ann") for path in bundles[:2])
    registry.promote(version.short, by="ann")
    registry.promote(other.short, by="ann")
    folder = root_of(registry) / "versions"
    path = folder / version.sha256 / "bundle.tar.gz"
    data = path.read_bytes()
    path.unlink()
    if damage == "altered":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "other":
        shutil.copy(folder / other.sha256 / "bundle.tar.gz", path)
    for use in (
        lambda: registry.promote(version.short, "next", by="ann"),
        lambda: registry.rollback(by="ann"),
        lambda: registry.pull(version.short, tmp_path / "out"),
    ):
        with pytest.raises((BundleError, RegistryError), match=r"was changed|is missing"):
            use()
    assert registry.resolve("champion") == other
    assert not (tmp_path / "out").exists()


def test_pulling_does_not_replace_anything_but_a_bundle(
    registry: Registry, bundles: list[Path], tmp_path: Path
) -> None:
    version = registry.publish(bundles[0], by="ann")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="thesis"):
        registry.pull(version.short, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_files_of_others_are_ignored(registry: Registry, bundles: list[Path]) -> None:
    version = registry.publish(bundles[0], by="ann")
    registry.promote(version.short, by="ann")
    root = root_of(registry)
    for name in ("aliases/champion/.00000002.json.ab.tmp", "aliases/champion/notes.txt", "versions/readme.txt", "x.md"):
        (root / name).write_text("hello")
    assert [entry.number for entry in registry.history("champion")] == [1]
    assert registry.versions() == [version]
    assert list(registry.aliases()) == ["champion"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2, "public_key": null}', "not json"])
def test_a_registry_of_another_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "registry.json").write_text(content)
    with pytest.raises(RegistryError, match=r"cannot be read|reads registries of version 1"):
        Registry.open(str(tmp_path))


def test_a_publisher_that_is_killed_leaves_no_version(bundles: list[Path], tmp_path: Path) -> None:
    """Killed before each object is written, and run again to the end."""
    code = """
import os, sys
from tsa.registry import FolderStorage, ObjectPlace, Registry
class Dying(FolderStorage):
    def create(self, name, data):
        if not Dying.left:
            os.kill(os.getpid(), 9)
        Dying.left -= 1
        return super().create(name, data)
from pathlib import Path
for Dying.left in range(3):
    if os.fork() == 0:
        Registry(ObjectPlace(Dying(Path(sys.argv[1]) / str(Dying.left)))).publish(sys.argv[2], by="ann")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, bundles[0]], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.split() == ["-9"] * 3
    for left in range(3):
        place = tmp_path / str(left)
        registry = Registry.open(str(place))
        assert registry.versions() == []
        version = registry.publish(bundles[0], by="bob")
        assert registry.versions() == [version]
        assert registry.pull(version.short, tmp_path / "out") == version


def test_versions_of_several_markets_are_told_apart(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    made_bundle(tmp_path / "wire", WIRE)
    registry.publish(bundles[0], by="ann")
    registry.publish(tmp_path / "wire", by="ann")
    assert {version.market for version in registry.versions()} == {"shop", "carried"}


def test_records_are_json(registry: Registry, bundles: list[Path]) -> None:
    version = registry.publish(bundles[0], by="ann")
    data = (root_of(registry) / "versions" / version.sha256 / "version.json").read_bytes()
    assert json.loads(data)["market"] == "shop"
