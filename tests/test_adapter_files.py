"""What of a model's directory tells its weights from others in their place."""

import json
import os
import shutil

import pytest

from distill.adapter_files import PART, PARTS, weights_identity

LARGE = 3 * PARTS * PART  # bytes, of which a third is read


@pytest.fixture
def model(tmp_path):
    """A directory with two files of weights and with what is none."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model-1.safetensors").write_bytes(bytes(LARGE))
    (folder / "model-2.safetensors").write_bytes(b"few")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_copy_has_the_same_weights(model, tmp_path):
    before = weights_identity(str(model))
    copied = tmp_path / "elsewhere"
    shutil.copytree(model, copied, copy_function=shutil.copyfile)
    os.utime(copied / "model-1.safetensors", (0, 0))
    assert weights_identity(str(copied)) == before
    linked = tmp_path / "linked"
    linked.symlink_to(model)
    assert weights_identity(str(linked)) == before
    (model / "README.md").write_text("more")
    (model / "adapter_model.safetensors").write_bytes(b"an adapter of it")
    assert weights_identity(f"{model}/") == before


CHANGES = {
    "all of it": ("model-1.safetensors", bytes([1]) * LARGE),
    "its end": ("model-1.safetensors", bytes(LARGE - 1) + b"1"),
    "longer": ("model-1.safetensors", bytes(LARGE + 1)),
    "a small one": ("model-2.safetensors", b"fex"),
    "one more": ("model-3.safetensors", b""),
}


@pytest.mark.parametrize(("name", "content"), CHANGES.values(), ids=CHANGES)
def test_other_weights_are_noticed_whatever_the_times_say(name, content, model):
    before = weights_identity(str(model))
    path = model / name
    path.touch()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=times)
    assert weights_identity(str(model)) != before


@pytest.mark.parametrize("name", ["consolidated.safetensors", "pytorch_model.bin"])
def test_the_same_weights_in_another_format_may_come_and_go(name, model):
    """People remove them to save room, and some machines have only what is loaded."""
    weight_map = {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
        "c": "model-2.safetensors",
    }
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    before = weights_identity(str(model))
    (model / name).write_bytes(b"all of it")
    assert weights_identity(str(model)) == before
    (model / "model-2.safetensors").write_bytes(b"fex")
    assert weights_identity(str(model)) != before


def test_one_file_of_weights_is_what_is_loaded(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    old = weights_identity(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"new")
    new = weights_identity(str(tmp_path))
    assert old != new
    (tmp_path / "consolidated.safetensors").write_bytes(b"new, once more")
    (tmp_path / "pytorch_model.bin").unlink()
    assert weights_identity(str(tmp_path)) == new


def test_weights_that_are_not_here_have_no_identity(tmp_path):
    assert weights_identity("team/model") is None
    (tmp_path / "config.json").write_text("{}")
    assert weights_identity(str(tmp_path)) is None


def test_little_of_large_weights_is_read(tmp_path):
    """As of the 57 GiB of the default teacher: a file with a hole takes no disk."""
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(2**36)
    assert weights_identity(str(tmp_path))
