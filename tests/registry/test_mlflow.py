"""A registry on a real server of MLflow: one version per bundle, moves of aliases that one of two writers wins, plain errors."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import tsa
from support.endpoint import made_bundle
from tsa.bundle.bundle import Bundle, set_decision_policy
from tsa.bundle.signing import make_keys, read_bundle, sign
from tsa.errors import BundleError, RegistryError
from tsa.registry import AliasFollower, Registry
from tsa.registry.mlflow import MLflowPlace

pytest.importorskip("mlflow")
pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes a database into the current folder if it is used without an address."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles, the second with decisions."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = [made_bundle(folder / str(seed), seed=seed) for seed in range(3)]
    set_decision_policy(paths[1], ["review=0.9"], score="raw_score")
    return paths


@pytest.fixture
def url(mlflow_address: str, request: pytest.FixtureRequest) -> str:
    """Of a registry that no other test uses."""
    return f"mlflow://{mlflow_address}/{request.node.name[:100].replace('[', '-').replace(']', '')}"


def sha_of(path: Path) -> str:
    return str(Bundle.open(path).sha256)


def place_of(registry: Registry) -> MLflowPlace:
    assert isinstance(registry.place, MLflowPlace)
    return registry.place


def test_a_whole_life(url: str, bundles: list[Path], tmp_path: Path) -> None:
    registry = tsa.Registry.open(url)
    assert registry.versions() == []
    first, second = (registry.publish(path, by="ann", note=f"note {at}") for at, path in enumerate(bundles[:2]))
    assert registry.publish(bundles[0], by="bob") == first
    assert Registry.open(url).versions() == [first, second]
    assert (second.sha256, second.by, second.note, second.decisions) == (
        sha_of(bundles[1]),
        "ann",
        "note 1",
        ("review",),
    )
    registry.promote(first.short, by="ann", why="the first")
    report = {"difference": 0.03, "rules": [{"name": "psi", "value": 0.01, "limit": 0.2}]}
    assert registry.promote(second.short, by="bob", why="better", evidence=report).number == 2
    assert registry.promote(second.short, by="bob").number == 2
    rolled = registry.rollback(by="cat", why="alarms")
    assert [(entry.number, entry.action, entry.by) for entry in registry.history("champion")] == [
        (1, "promote", "ann"),
        (2, "promote", "bob"),
        (3, "rollback", "cat"),
    ]
    assert registry.history("champion")[1].evidence == report
    assert registry.resolve("champion") == first
    assert (rolled.sha256, registry.aliases()) == (first.sha256, {"champion": rolled})
    for out in (tmp_path / "pulled", tmp_path / "pulled.tar.gz"):
        registry.pull("champion", out)
        assert read_bundle(out) == read_bundle(bundles[0])
    with pytest.raises(RegistryError, match="has no version before"):
        registry.rollback(by="cat")


def test_mlflow_shows_what_the_registry_has(url: str, bundles: list[Path]) -> None:
    registry = Registry.open(url)
    for path in bundles[:2]:
        registry.promote(registry.publish(path, by="ann").sha256, by="ann")
    place = place_of(registry)
    known = place._client.get_model_version_by_alias(place.name, "champion")
    assert known.tags["tsa.sha256"] == sha_of(bundles[1])
    assert known.tags["tsa.market"] == "shop"
    files = {file.path for file in place._client.list_artifacts(known.run_id)}
    assert files == {"model", "model_card.md"}
    registry.rollback(by="ann")
    assert place._client.get_model_version_by_alias(place.name, "champion").tags["tsa.sha256"] == sha_of(bundles[0])


def test_of_promotions_at_the_same_time_one_wins(url: str, bundles: list[Path]) -> None:
    shas = [Registry.open(url).publish(path, by="ann").sha256 for path in bundles]
    registries = [Registry.open(url) for _ in shas]
    for registry in registries:
        before = registry.place.entries
        entries = before("champion")
        registry.place.entries = lambda alias, entries=entries: entries  # type: ignore[method-assign]

    def promote(at: int) -> str:
        try:
            return registries[at].promote(shas[at], by=f"person {at}").by
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(promote, range(3)))
    won = [text for text in said if text.startswith("person") and " moved " not in text]
    assert len(won) == 1
    entry = Registry.open(url).current("champion")
    assert [entry.by] == won
    assert all(
        f"{entry.by} moved champion to {entry.sha256[:12]} at the same time; nothing was changed" in text
        for text in said
        if text not in won
    )
    assert Registry.open(url).promote(shas[0], "next", by="dan").number == 1
    place = place_of(Registry.open(url))
    assert place._client.get_model_version_by_alias(place.name, "champion").tags["tsa.sha256"] == entry.sha256


def test_published_at_the_same_time_it_is_one_version(url: str, bundles: list[Path]) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda name: Registry.open(url).publish(bundles[0], by=name), "abc"))
    assert done[0] == done[1] == done[2]
    assert len(place_of(Registry.open(url))._all(place_of(Registry.open(url)).name)) == 1


def test_a_killed_publisher_leaves_no_version(
    url: str, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry = Registry.open(url)
    client = place_of(registry)._client

    def killed(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    for step in ("log_artifacts", "create_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(client, step, killed)
            with pytest.raises(KeyboardInterrupt):
                registry.publish(bundles[0], by="ann")
        assert Registry.open(url).versions() == []
        with pytest.raises(RegistryError, match="has no alias or version"):
            registry.promote(sha_of(bundles[0]), by="ann")
    assert registry.publish(bundles[0], by="bob").by == "bob"
    registry.pull(sha_of(bundles[0]), tmp_path / "out")


def test_an_altered_bundle_is_refused(url: str, bundles: list[Path], tmp_path: Path) -> None:
    registry = Registry.open(url)
    version = registry.publish(bundles[0], by="ann")
    place = place_of(registry)
    (tmp_path / "bundle.tar.gz").write_bytes((place.archive(version.sha256) or b"")[:-1] + b"x")
    run = place._known(version.sha256).run_id
    place._client.log_artifact(run, tmp_path / "bundle.tar.gz", "model/artifacts")
    for use in (
        lambda: registry.promote(version.short, by="ann"),
        lambda: registry.pull(version.short, tmp_path / "o"),
    ):
        with pytest.raises(BundleError, match="was changed"):
            use()
    assert not (tmp_path / "o").exists()
    assert registry.aliases() == {}


def test_signatures(url: str, bundles: list[Path], tmp_path: Path) -> None:
    make_keys(tmp_path / "private", tmp_path / "public")
    Registry.create(url, (tmp_path / "public").read_bytes())
    with pytest.raises(RegistryError, match="is a registry already"):
        Registry.create(url)
    bundle = Path(shutil.copytree(bundles[0], tmp_path / "bundle"))
    with pytest.raises(BundleError, match="signed"):
        Registry.open(url).publish(bundle, by="ann")
    key = sign(bundle, (tmp_path / "private").read_bytes())
    assert Registry.open(url).publish(bundle, by="ann").signed_by == key
    Registry.open(url).pull(sha_of(bundle), tmp_path / "pulled")
    Bundle.open(tmp_path / "pulled", key=(tmp_path / "public").read_bytes())


def test_a_model_made_by_hand_becomes_a_registry(url: str, bundles: list[Path]) -> None:
    place = MLflowPlace.open(url)
    place._client.create_registered_model(place.name)
    registry = Registry.open(url)
    assert registry.versions() == []
    version = registry.publish(bundles[0], by="ann")
    with pytest.raises(RegistryError, match="must not be latest"):
        registry.promote(version.short, "latest", by="ann")
    with pytest.raises(RegistryError, match="has no alias 'challenger'"):
        registry.current("challenger")


def test_a_follower_copies_the_bundle(url: str, bundles: list[Path], tmp_path: Path) -> None:
    registry = Registry.open(url)
    registry.promote(registry.publish(bundles[0], by="ann").sha256, by="ann")
    source = AliasFollower(f"{url}@champion", tmp_path)
    assert [source.refresh(), source.refresh()] == [True, False]
    assert sha_of(source.path.resolve()) == sha_of(bundles[0])


def test_a_folder_of_mlflow(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    registry = Registry.open(f"mlflow+file://{tmp_path}/mlruns/cards")
    for path in bundles[:2]:
        registry.promote(registry.publish(path, by="ann").sha256, by="ann")
    registry.rollback(by="ann")
    assert registry.pull("champion", tmp_path / "out").sha256 == sha_of(bundles[0])


def test_a_server_that_is_down_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"mlflow://127.0.0.1:9/cards cannot be used: .*; check the address"):
        Registry.open("mlflow://127.0.0.1:9/cards")


def test_a_server_that_asks_for_credentials_is_one_clear_sentence() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        said = r"cannot be used: .*401.*; check the address, the server, and MLFLOW_TRACKING_USERNAME"
        with pytest.raises(RegistryError, match=said):
            Registry.open(f"mlflow://127.0.0.1:{server.server_port}/cards")
        server.shutdown()


@pytest.mark.parametrize(
    "url",
    [
        "mlflow://",
        "mlflow://host",
        "mlflow:///cards",
        "mlflow+ftp://host/cards",
        "mlflow://host/a:b",
        "mlflow+s3://b/c",
    ],
)
def test_urls_of_another_form_are_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="a registry in MLflow must be"):
        Registry.open(url)


def test_passwords_are_neither_taken_nor_shown() -> None:
    with pytest.raises(RegistryError, match="must have no user or password") as caught:
        Registry.open("mlflow+https://ann:secret@host/cards")
    assert "secret" not in str(caught.value)
