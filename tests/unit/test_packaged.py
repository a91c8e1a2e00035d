"""Encoders in packages: found, joined once, refused where they are missing or damaged."""

import importlib.metadata
import io
import logging
import zipfile

import pytest

from adaptive_inference.backbones import packaged as module
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


def test_pieces_are_joined_once_and_nothing_else_is_unpacked(pieces, caplog):
    held, folder = pieces
    caplog.set_level(logging.INFO)
    place = encoder("001", "002", "003").folder()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == held
    assert [path.name for path in place.parent.iterdir()] == [place.name]
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
    assert list((folder / "cache" / "adaptive-inference").iterdir()) == [], "nothing half made is left"


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
