"""Encoders in packages: found, joined once, refused where they are missing or damaged."""

import errno
import importlib.metadata
import io
import logging
import sys
import threading
import time
import zipfile

import pytest

from adaptive_inference.backbones import packaged as module
from adaptive_inference.backbones._at_a_glance import surely_fits
from adaptive_inference.backbones.load import load_backbone, load_config, load_tokenizer, weight_folder
from adaptive_inference.backbones.packaged import FILES, Packaged, packaged
from adaptive_inference.errors import UserError

MPNET = "packaged:all-mpnet-base-v2"


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """Three installed packages with the pieces of one zip; returns what the zip holds, and its packages' folder."""
    held = {file: f"{file} ".encode() * 50 for file in FILES}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for file, content in held.items():
            archive.writestr(f"model/{file}", content)
        archive.writestr("model/1_Pooling/config.json", b"of another tool")
        archive.writestr("model/weights.bin", b"a pickle")
    content = whole.getvalue()
    third = len(content) // 3 + 1
    for number in range(3):
        (tmp_path / f"m.zip.{number + 1:03}").write_bytes(content[number * third : (number + 1) * third])

    class File:
        def __init__(self, path):
            self.name, self.path = path.name, path

        def locate(self):
            return self.path

    def files(name):
        if name == "missing":
            raise importlib.metadata.PackageNotFoundError(name)
        return [File(path) for path in sorted(tmp_path.glob(f"m.zip.{name}"))]

    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setattr(module, "ENCODERS", ())
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return held, tmp_path


def encoder(*packages):
    return Packaged("packaged:small", packages, "pip install it", "0" * 64)


def unpacked(folder):
    """What lies in the cache but for locks."""
    return sorted(
        path.name for path in (folder / "cache/adaptive-inference").iterdir() if path.suffix != ".lock"
    )


def test_pieces_are_joined_once_and_nothing_else_is_unpacked(pieces, caplog):
    held, folder = pieces
    caplog.set_level(logging.INFO)
    place = encoder("001", "002", "003").folder()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == held
    assert unpacked(folder) == [place.name]
    assert "joining packaged:small, once: 0 MB of 3 packages" in caplog.text
    for piece in folder.glob("m.zip.*"):
        piece.unlink()
    assert encoder("001", "002", "003").folder() == place


def test_another_checksum_is_another_folder(pieces):
    other = Packaged("packaged:small", ("001", "002", "003"), "", "1" * 64)
    assert encoder("001", "002", "003").folder() != other.folder()


def test_missing_and_damaged_packages_are_told_with_the_command_that_helps(pieces):
    _, folder = pieces
    with pytest.raises(UserError, match="`packaged:small` need the PyPI package missing: pip install it"):
        encoder("001", "missing").folder()
    with pytest.raises(UserError, match=r"the installed 004 holds no \.zip\.002; .*pip install it"):
        encoder("001", "004").folder()
    (folder / "m.zip.003").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"are damaged \(.*pip install it"):
        encoder("001", "002", "003").folder()
    assert unpacked(folder) == [], "nothing half made is left"


def test_a_process_waits_for_another_that_is_joining(pieces, monkeypatch):
    times, unpack, places = [], module._unpack, []

    def slow(*given):
        times.append(time.monotonic())
        time.sleep(0.3)
        unpack(*given)

    monkeypatch.setattr(module, "_unpack", slow)
    two = [
        threading.Thread(target=lambda: places.append(encoder("001", "002", "003").folder())) for _ in "ab"
    ]
    for thread in two:
        thread.start()
    for thread in two:
        thread.join()
    assert (len(times), len(places), len(set(places))) == (1, 2, 1)


def test_what_a_killed_process_left_is_removed_by_the_next(pieces, monkeypatch):
    _, folder = pieces
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *given, **options: None)  # nothing tidies up after a kill
        patched.setattr("zipfile.ZipFile", lambda *given: sys.exit("killed"))
        with pytest.raises(SystemExit):
            encoder("001", "002", "003").folder()
    left = unpacked(folder)
    assert len(left) == 1
    place = encoder("001", "002", "003").folder()
    assert unpacked(folder) == [place.name]


def test_a_folder_that_lacks_a_file_is_joined_again(pieces):
    held, _ = pieces
    place = encoder("001", "002", "003").folder()
    (place / "tokenizer.json").unlink()
    assert encoder("001", "002", "003").folder() == place
    assert {path.name: path.read_bytes() for path in place.iterdir()} == held


def test_a_cache_that_cannot_be_written_is_told_in_a_sentence(pieces, monkeypatch):
    _, folder = pieces

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", full)
        with pytest.raises(UserError, match=r"joined in .*cache.*No space left .*XDG_CACHE_HOME"):
            encoder("001", "002", "003").folder()
    assert unpacked(folder) == []
    (folder / "cache/adaptive-inference").rename(folder / "away")
    (folder / "cache/adaptive-inference").write_text("a file")
    with pytest.raises(UserError, match=r"joined in .*cache.*XDG_CACHE_HOME"):
        encoder("001", "002", "003").folder()


def test_without_the_extra_the_command_that_installs_it_is_told(pieces, monkeypatch):
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(UserError, match="need the PyPI package platformdirs: pip install it"):
        encoder("missing", "missing").folder()


def test_a_glance_at_an_encoder_in_pieces_joins_nothing(pieces, monkeypatch):
    _, folder = pieces
    monkeypatch.setattr(module, "ENCODERS", (encoder("001", "002", "003"),))
    assert not surely_fits("packaged:small", [1], 8, False)
    assert not (folder / "cache").exists()


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=rf"no packaged encoder 'packaged:all-mpnet'; .*{MPNET}.*mean"):
        load_config("packaged:all-mpnet")


def test_the_encoder_of_five_packages_has_twelve_layers_and_the_published_weights():
    try:
        importlib.metadata.files(packaged(MPNET).packages[0])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the extra `mpnet`")
    backbone = load_backbone(MPNET, num_layers=2)  # checks the sum of the whole file
    assert (backbone.num_layers, backbone.hidden_size) == (2, 768)
    assert load_config(MPNET).num_hidden_layers == 12
    assert load_tokenizer(MPNET)("hello")["input_ids"] == [0, 7596, 2]
    assert sorted(path.name for path in weight_folder(MPNET).iterdir()) == sorted(FILES)
