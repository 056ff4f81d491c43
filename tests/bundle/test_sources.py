"""Where a bundle comes from: archives that others packed, folders that platforms put files into, mounts; and bombs."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsa.bundle import tar_stream
from tsa.bundle.archive import to_tar_gz
from tsa.bundle.bundle import MANIFEST, Bundle
from tsa.bundle.signing import make_keys, read_bundle, sign
from tsa.errors import BundleError, ConfigError
from tsa.files import mounts
from tsa.files.platform_files import is_marker
from tsa.files.writing import atomic_file

MARKED = (".DS_Store", "._manifest.json", ".nfs000000001", "manifest.json.sagemaker-uploaded", "Thumbs.db")


@pytest.fixture
def bundle(demo_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_run / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def with_tar(*options: str) -> Callable[[Path, Path], None]:
    def pack(bundle: Path, out: Path) -> None:
        subprocess.run(["tar", *options, "-czf", out, "-C", bundle, "."], check=True)

    return pack


def with_python(**settings: object) -> Callable[[Path, Path], None]:
    def pack(bundle: Path, out: Path) -> None:
        with tarfile.open(out, "w:gz", **settings) as archive:  # type: ignore[call-overload]
            archive.add(bundle, arcname=".")

    return pack


def folder_alone(bundle: Path, out: Path) -> None:
    subprocess.run(["tar", "-czf", out, "-C", bundle.parent, bundle.name], check=True)


def long_names(bundle: Path, out: Path) -> None:
    """Each name in a header of its own, as GNU tar writes names of more than 100 characters."""
    with tarfile.open(out, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for path in bundle.iterdir():
            archive.add(path, arcname="." + "/." * 60 + f"/{path.name}")


PACKERS = {
    "tar .": with_tar(),
    "tar with pax headers": with_tar("--format=pax"),
    "tar of old": with_tar("--format=v7"),
    "tar with an owner": with_tar("--owner=somebody:1234", "--group=others:99"),
    "tar of the folder": folder_alone,
    "Python": with_python(),
    "Python with GNU headers": with_python(format=tarfile.GNU_FORMAT),
    "Python with pax headers of all": with_python(format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}),
    "long names": long_names,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_of_others_is_the_same_bundle(bundle: Path, tmp_path: Path, packer: str) -> None:
    PACKERS[packer](bundle, tmp_path / "m.tar.gz")
    assert read_bundle(tmp_path / "m.tar.gz") == read_bundle(bundle)


def test_an_archive_may_hold_what_platforms_add(bundle: Path, tmp_path: Path) -> None:
    for name in MARKED:
        (bundle / name).write_bytes(b"of a platform")
    with_tar()(bundle, tmp_path / "m.tar.gz")
    contents, _ = read_bundle(tmp_path / "m.tar.gz")
    assert not set(contents) & set(MARKED)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (size + -size % 512)


@pytest.mark.parametrize(
    "odd",
    [
        member("weights.safetensors", tarfile.SYMTYPE, "/etc/passwd"),
        member("weights.safetensors", tarfile.LNKTYPE, "model.json"),
        member("../weights.safetensors"),
        member("/weights.safetensors"),
        member("a/b/weights.safetensors"),
        member("a/weights.safetensors"),
        member("..", tarfile.DIRTYPE),
        member("weights.safetensors", tarfile.DIRTYPE),
        member("x", tarfile.GNUTYPE_LONGNAME, size=2**21),
        member("pax", tarfile.XHDTYPE, size=1024),
    ],
)
def test_what_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path, odd: bytes) -> None:
    contents, _ = read_bundle(bundle)
    rest = {name: data for name, data in contents.items() if name != "weights.safetensors"}
    plain = gzip.decompress(to_tar_gz(rest))
    for stream in (odd + plain, plain.rstrip(b"\0") + b"\0" * (-len(plain.rstrip(b"\0")) % 512) + odd):
        (tmp_path / "m.tar.gz").write_bytes(gzip.compress(stream + b"\0" * 1024))
        with pytest.raises(BundleError):
            Bundle.open(tmp_path / "m.tar.gz")


def bomb(path: Path, name: str, size: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        header = tarfile.TarInfo(name)
        header.size = size
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size // 2**20):
            file.write(b"\0" * 2**20)
        file.write(b"\0" * 1024)


@pytest.mark.parametrize("name", ["weights.safetensors", ".DS_Store", "manifest.json", "model.onnx"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_bomb_takes_no_memory(tmp_path: Path, name: str, signed: bool) -> None:
    """A few hundred kilobytes that unpack to 300 MB: with a key and without one they are passed over, piece by piece."""
    key = None
    if signed:
        make_keys(tmp_path / "private", tmp_path / "public")
        key = (tmp_path / "public").read_bytes()
    bomb(tmp_path / "m.tar.gz", name, 300 * 2**20)
    tracemalloc.start()
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "m.tar.gz", key=key)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 2**20


def test_what_is_not_of_its_size_is_not_read(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an archive with a sound manifest and one more gigabyte in a file."""
    contents, _ = read_bundle(bundle)
    wanted = len(contents["weights.safetensors"])
    (tmp_path / "m.tar.gz").write_bytes(to_tar_gz({**contents, "weights.safetensors": b"\0" * (wanted + 1)}))
    taken: list[int] = []
    read = tar_stream.Tape.read
    monkeypatch.setattr(tar_stream.Tape, "read", lambda self, size: taken.append(size) or read(self, size))  # type: ignore[func-returns-value]
    with pytest.raises(BundleError, match=r"weights\.safetensors was changed: its size"):
        Bundle.open(tmp_path / "m.tar.gz")
    assert wanted + 1 not in taken
    with (bundle / "weights.safetensors").open("r+b") as file:
        file.truncate(2**31)  # a hole
    with pytest.raises(BundleError, match=r"weights\.safetensors was changed: its size"):
        Bundle.open(bundle)


def test_the_signature_is_asked_for_before_anything_else_is_read(bundle: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "private", tmp_path / "public")
    make_keys(tmp_path / "other", tmp_path / "other.pub")
    key = (tmp_path / "public").read_bytes()
    for file in ("weights.safetensors", "model.json"):
        (bundle / file).chmod(0)
        (bundle / file).unlink()
    with pytest.raises(BundleError, match="got no signature"):
        Bundle.open(bundle, key=key)
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(bundle)


def test_a_network_larger_than_its_weights_takes_no_memory(demo_run: Path, tmp_path: Path) -> None:
    from tsa.bundle.manifest import build_manifest, to_json

    contents, manifest = read_bundle(demo_run / "bundle")
    files = {name: data for name, data in contents.items() if name != MANIFEST}
    import json

    files["model.json"] = to_json({**json.loads(files["model.json"]), "n_embedding": 10**12})
    facts = {name: manifest[name] for name in ("market_fingerprint", "torch")}
    (tmp_path / "m.tar.gz").write_bytes(to_tar_gz({**files, MANIFEST: build_manifest(files, facts)}))
    with pytest.raises(BundleError, match=r"model\.json must describe a network that fits weights\.safetensors"):
        Bundle.open(tmp_path / "m.tar.gz")


def test_files_of_platforms_are_left_alone(bundle: Path) -> None:
    for name in (*MARKED, ".snapshot"):
        (bundle / name).touch()
    (bundle / "lost+found").mkdir()
    assert Bundle.open(bundle)
    (bundle / "notes.txt").touch()
    with pytest.raises(BundleError, match=r"notes\.txt does not belong"):
        Bundle.open(bundle)


def test_a_bundle_in_a_config_map(bundle: Path, tmp_path: Path) -> None:
    """Kubernetes writes the files into a folder with a date, and links to them by way of `..data`."""
    there = tmp_path / "mounted"
    shutil.copytree(bundle, there / "..2026_01_01")
    (there / "..data").symlink_to("..2026_01_01")
    for path in bundle.iterdir():
        (there / path.name).symlink_to(f"..data/{path.name}")
    assert read_bundle(there) == read_bundle(bundle)
    (there / "model.json").unlink()
    (there / "model.json").symlink_to(bundle / "model.json")
    with pytest.raises(BundleError, match=r"model\.json must be a regular file"):
        Bundle.open(there)


@pytest.mark.parametrize(
    "name", ["manifest.json", "notes.txt", ".hidden", "x.json", "sagemaker-uploaded", "..", "data"]
)
def test_other_names_are_no_markers(name: str) -> None:
    assert is_marker(name) == (name == "..")


@pytest.fixture
def mounted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle on a mount: a real one where that may be made, else one that is said to be and cannot be renamed."""
    if os.geteuid() == 0 and not subprocess.run(["mount", "--bind", bundle, bundle], capture_output=True).returncode:
        try:
            yield bundle
        finally:
            subprocess.run(["umount", "-l", bundle], check=True)
        return
    monkeypatch.setattr(mounts, "is_mount", lambda path: path == bundle)
    yield bundle


def test_a_mount_is_written_into(mounted: Path) -> None:
    inode = mounted.stat().st_ino
    (mounted / "lost+found").mkdir()
    opened = Bundle.open(mounted)
    (mounted / "metrics.json.sagemaker-uploaded").touch()
    made = Bundle(**{**vars(opened), "metrics": None, "data": None})
    made.save(mounted)
    assert mounted.stat().st_ino == inode
    names = {path.name for path in mounted.iterdir()}
    assert {"lost+found", "metrics.json.sagemaker-uploaded", MANIFEST} <= names
    assert "metrics.json" not in names
    assert not any(name.endswith(".tmp") for name in names)
    assert Bundle.open(mounted).metrics is None
    assert [path.name for path in mounted.parent.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


def test_what_can_only_be_written_into_is(demo_run: Path, open_folder: Path) -> None:
    """As in a container whose user may write to the mount, and not to the folder that it is in: there is no log file."""
    bundle, log = open_folder / "bundle", open_folder / "bundle.log"
    shutil.copytree(demo_run / "bundle", bundle)
    user: list[object] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv, as root")
        user = ["setpriv", "--reuid", "12345", "--clear-groups", "--"]
        if subprocess.run([*user, sys.executable, "-c", "import tsa"], capture_output=True, check=False).returncode:
            pytest.skip("needs a Python that other users may run")
        for path in (bundle, *bundle.iterdir()):
            os.chown(path, 12345, -1)
    else:
        open_folder.chmod(0o555)
    imports = "import sys; from pathlib import Path; from tsa.cli.console import command_session"
    session = f"{imports}\nwith command_session(False, Path(sys.argv[1])): print('on')"
    decide = [Path(sys.executable).with_name("tsa"), "bundle", "set-thresholds", bundle, "--score", "raw_score"]
    env = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    done, noted = (
        subprocess.run([*user, *words], capture_output=True, text=True, env=env)
        for words in ([*decide, "--threshold", "review=0.5"], [sys.executable, "-c", session, log])
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Bundle.open(bundle).thresholds is not None
    assert (noted.returncode, noted.stdout) == (0, "on\n")
    assert "there is no log file" in noted.stderr
    assert not log.exists()


def test_an_empty_mount_is_filled(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With lost+found in it, as a new file system has."""
    out = tmp_path / "disk"
    (out / "lost+found").mkdir(parents=True)
    monkeypatch.setattr("tsa.files.writing.cannot_move", lambda path: path == out)
    Bundle.open(bundle).save(out)
    assert Bundle.open(out)
    assert (out / "lost+found").is_dir()


def test_a_file_that_is_a_mount_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tar.gz").write_bytes(b"old")

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("tsa.files.writing.os.replace", busy)
    with (
        pytest.raises(ConfigError, match=r"m\.tar\.gz must not be a mount point: mount its folder"),
        atomic_file(tmp_path / "m.tar.gz") as aside,
    ):
        aside.write_bytes(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("m.tar.gz", b"old")]


def test_a_mount_is_found_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    (tmp_path / "a b").mkdir()
    table.write_text(f"36 35 98:0 /x {os.path.realpath(tmp_path)}/a\\040b rw - ext4 /dev/root rw\n")
    monkeypatch.setattr(mounts, "TABLE", table)
    assert mounts.is_mount(tmp_path / "a b")
    assert not mounts.is_mount(tmp_path)


def test_stores_and_checkpoints_are_their_owners_alone(demo_run: Path) -> None:
    held = [*demo_run.glob("store/*"), *demo_run.glob("checkpoints/**/*")]
    held = [path for path in held if path.is_file()]
    assert held
    assert {oct(path.stat().st_mode & 0o777) for path in held} == {"0o600"}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_a_terminal_of_any_encoding_shows_a_bundle(demo_run: Path, encoding: str) -> None:
    command = [Path(sys.executable).with_name("tsa"), "bundle", "show", demo_run / "bundle"]
    shown = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "sha256" in shown.stdout.decode(encoding)


def test_signing_reads_archives_of_others(bundle: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "private", tmp_path / "public")
    with_tar()(bundle, tmp_path / "m.tar.gz")
    sign(tmp_path / "m.tar.gz", (tmp_path / "private").read_bytes())
    assert Bundle.open(tmp_path / "m.tar.gz", key=(tmp_path / "public").read_bytes())
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "m.tar.gz").read_bytes())) as archive:
        assert archive.getnames()[:2] == ["manifest.json", "signature.json"]
