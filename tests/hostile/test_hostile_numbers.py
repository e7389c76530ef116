"""Sizes and numbers are looked at before memory or time is spent on them."""

import struct
import zipfile

import h5py
import numpy as np
import pytest
from conftest import REFERENCES

from tagger import validation
from tagger.datasets import million_song
from tagger.weights import readers


def npy(shape, dtype="<f4", content=b""):
    """Returns an array's header with any claim, and any content behind it."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "content",
    [
        npy((10**10,)), npy((10**12,)), npy((1 << 62, 4)), npy((-1,)),
        npy((2,), content=bytes(9)), npy((1,), "|O"), npy((1,), ()),
        npy((1,), ("<f4",)), b"\x93NUMPY\x09\x00", b"no array", b"",
    ],
)  # fmt: skip
def test_an_array_that_claims_too_much_is_refused(content, tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", content)
    with pytest.raises(ValueError, match="is refused: .*Save plain arrays"):
        readers.read_npz(str(path))
    (tmp_path / "train_ids.npy").write_bytes(content)
    with pytest.raises(ValueError, match="is not a NumPy array: ."):
        million_song._read_array(tmp_path / "train_ids.npy")


def test_arrays_that_are_right_come_back(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("text"),
              "c": np.asfortranarray(np.eye(3)), "d": np.zeros((0, 4))}  # fmt: skip
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    for name, array in validation.read_arrays(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MAX_ARRAY_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    with pytest.raises(ValueError, match="unpacks to more than"):
        validation.read_arrays(tmp_path / "a.npz", 1 << 20)


def keras2(path, make):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense_1"]
        group = file.create_group("dense_1")
        group.attrs["weight_names"] = [b"kernel:0"]
        make(group, path)
    return str(path)


def external(group, path):
    group.create_dataset("kernel:0", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def virtual(group, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    group.create_virtual_dataset("kernel:0", layout)


def attribute(group, path):
    group.attrs["weight_names"] = 7


def is_group(group, path):
    group.create_group("kernel:0")


def set_to(link):
    def make(group, path):
        group["kernel:0"] = link

    return make


def one_chunk(group, path):
    group.create_dataset("kernel:0", (1,), "f4", maxshape=(None,), chunks=(1 << 29,))


def huge(group, path):
    group.create_dataset("kernel:0", (1 << 20, 1 << 20), "f4", chunks=(64, 64))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (external, "lies in another file"),
        (virtual, "lies in another file"),
        (set_to(h5py.SoftLink("/dense_1/kernel:0")), "is a link"),
        (set_to(h5py.ExternalLink("/etc/passwd", "x")), "is a link"),
        (attribute, "is not a Keras 2 model file"),
        (is_group, "is not a Keras 2 model file"),
        (huge, "more than 1 GB"),
        (one_chunk, "more than 1 GB"),
    ],
)
def test_hdf5_that_reaches_outside_or_too_far_is_refused(make, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        readers.read_weights(keras2(tmp_path / "a.hdf5", make))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    quantized = torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)
    for number, tensor in enumerate(
        (
            quantized,
            torch.zeros(4, device="meta"),
            torch.zeros(1).expand(1 << 40),
            torch.zeros(3, dtype=torch.complex64),
            torch.zeros(3).to_sparse(),
            7,
        )
    ):
        path = str(tmp_path / f"{number}.pth")
        torch.save({"a.weight": tensor}, path)
        with pytest.raises(ValueError, match="is not a (state dict|PyTorch file of)"):
            readers.read_weights(path)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["explain", "{song}", "--start", "inf"], "must be at least 0"),
        (["explain", "{song}", "--start", "nan"], "must be at least 0"),
        (["explain", "{song}", "--hop", "-1"], "must be above 0"),
        (["train", "--lr", "-1"], "--lr must be above 0, not -1"),
        (["train", "--lr", "nan"], "--lr must be above 0"),
        (["train", "--momentum", "5"], "momentum must be from 0 to below 1"),
        (["train", "--checkpoint-minutes", "nan"], "must be at least 0"),
    ],
)
def test_absurd_numbers_are_refused_on_the_command_line(
    command, says, tmp_path, built, run_script
):
    song = REFERENCES / "mono.mp3"
    command = [part.format(song=song) for part in command]
    if command[0] == "train":
        command += ["--data-dir", built, "--train-dir", tmp_path / "log"]
    else:
        command += ["--output", tmp_path / "out"]
    done = run_script("-m", "tagger", *command)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.*"))
