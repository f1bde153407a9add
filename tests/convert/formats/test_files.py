"""Files of public weights: read and written without PyTorch, and nothing in them is ever run."""

import contextlib
import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from kfjax.convert.formats import torch_pickle
from kfjax.convert.formats.files import read_object, read_state, write_state

DTYPES = list(torch_pickle.STORAGES.values())
SUFFIXES = (".pth", ".safetensors")


def state_dict() -> dict[str, np.ndarray]:
    """A tensor of every dtype, and the odd shapes."""
    rng = np.random.default_rng(0)
    state = {f"layer.{x}": (100 * rng.standard_normal((3, 4))).astype(x) for x in DTYPES}
    turned = rng.standard_normal((2, 3, 5)).transpose(2, 0, 1)
    state |= {"scalar": np.float32(0.1), "count": np.array(7), "none": np.zeros((0, 3))}
    return state | {"turned": turned, "é": turned[0]}


def assert_same(got, expected):
    assert list(got) == list(expected)
    for key, value in expected.items():
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape), key
        assert got[key].tobytes() == value.tobytes(), key


def archive(path, program: bytes, storages=(), **records: bytes):
    """A torch file around a pickle: storages are numbered."""
    records = {"data.pkl": program, "version": b"3\n"} | {f"data/{i}": x for i, x in enumerate(storages)} | records
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records.items():
            file.writestr(f"archive/{name}", data)
    return path


def refusal(path, read=read_object) -> str:
    """The message of a refusal: one line that names the file."""
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# Writing and reading, without torch.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_and_read(tmp_path, suffix):
    path = tmp_path / "new" / f"weights{suffix}"
    write_state(path, state_dict())
    got = read_state(path)
    assert_same(dict(sorted(got.items())), dict(sorted(state_dict().items())))
    assert os.listdir(path.parent) == [path.name]
    assert all(x.flags.aligned for x in got.values())


def test_torch_file_keeps_order_and_is_mapped(tmp_path):
    path = tmp_path / "weights.pth"
    write_state(path, state_dict())
    got = read_state(path)
    assert_same(got, state_dict())
    full = [x for x in got.values() if x.size]
    assert not any(x.flags.writeable or x.flags.owndata or x.ctypes.data % 64 for x in full)
    write_state(tmp_path / "again.pth", got)
    assert (tmp_path / "again.pth").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_what_was_there(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"weights{suffix}"
    write_state(path, {"x": np.arange(3)})
    with pytest.raises(ValueError, match=r"got y \(complex64\), expected .*float32"):
        write_state(path, {"x": np.arange(4), "y": np.zeros(2, np.complex64)})
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_state(path, {"x": np.arange(4)})
    assert os.listdir(tmp_path) == [path.name]
    assert_same(read_state(path), {"x": np.arange(3)})


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"suffix '\.npz', expected \.pth or \.safetensors"):
        write_state(tmp_path / "x.npz", state_dict())
    with pytest.raises(ValueError, match="empty state dict"):
        write_state(tmp_path / "x.pth", {})
    with pytest.raises(ValueError, match=r"got x \(>f4\)"):
        write_state(tmp_path / "x.pth", {"x": np.zeros(2, ">f4")})
    assert not os.listdir(tmp_path)


def test_shards(tmp_path):
    state = {f"x{i}": np.full((2, i), i, ml_dtypes.bfloat16) for i in range(4)}
    shard_of = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(state)}
    for name in set(shard_of.values()):
        write_state(tmp_path / name, {key: state[key] for key in state if shard_of[key] == name})
    index = tmp_path / "model.safetensors.index.json"
    assert "expected one file or an index" in refusal(tmp_path)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of}))
    assert_same(read_state(index), state)
    assert_same(read_state(tmp_path), state)
    index.write_text(json.dumps({"weight_map": shard_of | {"x9": "model-0.safetensors"}}))
    assert "lack: x9" in refusal(index)
    (tmp_path / "model-1.safetensors").unlink()
    assert "not beside it: model-1.safetensors" in refusal(index)
    for broken in ('{"x": "../model-0.safetensors"}', "[1]", '{"x": 1}', "["):
        index.write_text(f'{{"weight_map": {broken}}}')
        assert "is no index" in refusal(index)


def test_a_folder_with_one_file_or_none(tmp_path):
    assert "holds no" in refusal(tmp_path)
    write_state(tmp_path / "only.safetensors", {"x": np.arange(3)})
    assert_same(read_state(tmp_path), {"x": np.arange(3)})


# Files that hold more than a state dict: tensors written by hand, so that torch is not needed.


def plain(value) -> bytes:
    """Instructions that push plain values."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(count=4, key="0", offset=0, size=(2, 2), stride=(2, 1), storage="torch\nFloatStorage") -> bytes:
    """Instructions that push a tensor."""
    identity = plain("storage") + b"c%s\n" % storage.encode() + plain(key) + plain("cpu") + plain(count)
    rest = b"".join(map(plain, (offset, size, stride, False)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + identity + b"tQ" + rest + b"ccollections\nOrderedDict\n)RtR"


def nested(**parts) -> bytes:
    """Instructions that push a dict; bytes are instructions already."""
    items = (plain(key) + (x if isinstance(x, bytes) else plain(x)) for key, x in parts.items())
    return b"}(" + b"".join(items) + b"u"


STORAGE = np.arange(4, dtype=np.float32).tobytes()
STATE = nested(weight=tensor())


def saved(path, program: bytes, storage: bytes = STORAGE, **records: bytes):
    return archive(path, b"\x80\2" + program + b".", [storage], **records)


@pytest.mark.parametrize("key", ["generator", "state_dict"])
def test_the_only_part_is_taken(tmp_path, key):
    optimizer = {"state": {}, "groups": [1, 2.5, None, True, (), (1, 2), (1, 2, 3, 4), 2**40]}
    path = saved(tmp_path / "x.pt", nested(**{key: STATE, "step": 3, "optimizer": optimizer}))
    assert read_state(path)["weight"].tolist() == [[0, 1], [2, 3]]
    assert read_state(path, inside=key)["weight"].tolist() == [[0, 1], [2, 3]]
    assert read_object(path)["optimizer"] == optimizer


def test_several_parts_are_asked_for(tmp_path):
    path = saved(tmp_path / "x.ckpt", nested(state_dict=STATE, critic=STATE, step=3))
    assert "several state dicts: state_dict, critic; name one with --inside" in refusal(path, read_state)
    assert list(read_state(path, inside="critic")) == ["weight"]
    missing = refusal(path, lambda x: read_state(x, inside="model"))
    assert "has no part model; expected one of state_dict, critic" in missing
    assert "its step is a int, expected tensors" in refusal(path, lambda x: read_state(x, "step"))


def test_what_is_no_state_dict(tmp_path):
    assert "1 tensors and version" in refusal(saved(tmp_path / "y.pth", nested(w=tensor(), version=1)), read_state)
    assert "holds a list" in refusal(saved(tmp_path / "z.pth", b"]"), read_state)
    assert "a dict of nothing" in refusal(saved(tmp_path / "e.pth", b"}"), read_state)


# Damaged and hostile files.


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"count": 5}, "holds 16 bytes, expected 5 x 4"),
        ({"count": 2**62}, "holds 16 bytes"),
        ({"count": -1}, "length of a tensor is (-1,)"),
        ({"count": True}, "length of a tensor"),
        ({"size": (2, 3)}, "reaches value 4 of its storage, which holds 4"),
        ({"stride": (2**62, 1)}, "reaches value"),
        ({"stride": (-2, 1)}, "stride of a tensor is (-2, 1)"),
        ({"offset": 1}, "reaches value 4"),
        ({"offset": -1}, "offset of a tensor"),
        ({"size": (-2, 2)}, "size of a tensor"),
        ({"size": (2.0, 2)}, "size of a tensor"),
        ({"size": (2,)}, "1 axes and 2 strides"),
        ({"size": (2**62, 2**62), "stride": (0, 0)}, "repeats the 4 values of its storage"),
        ({"size": (0, 2**62, 2**62), "stride": (0, 0, 0)}, "too"),
        ({"size": (1,) * 80, "stride": (1,) * 80}, "the size of a tensor is (1, 1, 1, 1, 1, 1, ...)"),
        ({"key": "7"}, "record data/7 is missing"),
        ({"key": "../data.pkl"}, "record data/../data.pkl is missing"),
        ({"key": 0}, "for the type of a storage"),
        ({"storage": "collections\nOrderedDict"}, "for the type of a storage"),
        ({"storage": "torch\nQInt8Storage"}, "names torch.QInt8Storage"),
    ],
)
def test_tensors_outside_their_storage(tmp_path, fields, message):
    assert message in refusal(saved(tmp_path / "x.pth", tensor(**fields)))


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(sentinel) -> dict[str, bytes]:
    """Pickles that plain unpickling runs: each makes a file."""
    code = f"open({str(sentinel)!r}, 'w').close()"
    made = {
        f"{f.__module__}.{f.__name__} by protocol {protocol}": pickle.dumps(Attack(f, *arguments), protocol)
        for protocol in (0, 1, 2, 4, 5)
        for f, arguments in ((os.system, (f"touch {sentinel}",)), (exec, (code,)), (eval, (code,)))
    }
    quoted = plain(code)
    return made | {
        "inside a state dict": b"\x80\2}X\1\0\0\0ac__builtin__\nexec\n" + quoted + b"\x85Rs.",
        "popped again": b"\x80\2c__builtin__\nexec\n" + quoted + b"\x85R0}.",
        "OBJ": b"\x80\2(c__builtin__\nexec\n" + quoted + b"o.",
        "INST": b"(" + pickle.dumps(code, 0)[:-1] + b"i__builtin__\nexec\n.",
        "a method of a known name": b"\x80\4\x8c\x0bcollections\x8c\x0c_sys.modules\x93.",
    }


def test_attacks_run_nothing(tmp_path):
    sentinel = tmp_path / "ran"
    ran = 0
    for name, program in attacks(sentinel).items():
        with contextlib.suppress(Exception):
            pickle.loads(program)  # what this guards against
        ran += sentinel.exists()
        sentinel.unlink(missing_ok=True)
        message = refusal(archive(tmp_path / "x.pth", program))
        assert not sentinel.exists(), name
        assert "if you trust" in message
        if "system" in name and " 2" in name:
            assert "names posix.system" in message or "names nt.system" in message
    assert ran >= 18


@pytest.mark.parametrize(
    "program, message",
    [
        (b"ctorch\nload\n", "names torch.load"),
        (b"ctorch._utils\n_rebuild_tensor\n", "names torch._utils._rebuild_tensor"),
        (b"cnumpy.core.multiarray\nscalar\n", "names numpy.core.multiarray.scalar"),
        (b"c__builtin__\ngetattr\n", "names __builtin__.getattr"),
        (b"\x8c\x0bcollections\x8c\x16OrderedDict.fromkeys.x\x93", "names collections.OrderedDict.fromkeys.x"),
        (b"ctorch\nFloatStorage\n)R", "calls torch FloatStorage, which only names a type"),
        (b"ccollections\nOrderedDict\n)\x81", "uses NEWOBJ"),
        (b"\x82\x01", "uses EXT1"),
        (b"X\1\0\0\0aQ", "damaged"),
        (b"(X\6\0\0\0moduleK\1K\1K\1K\1tQ", "no storage"),
        (b"P0\n", "uses PERSID"),
        (b"ccollections\nOrderedDict\n}b", "damaged"),
        (b"}X\1\0\0\0a)s)R", "damaged"),
        (b"}))s", "uses a tuple as a key"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(}K\0))tR", "a tensor in a dict"),
        (b"ctorch._utils\n_rebuild_parameter\n(}\x89}tR", "a parameter made of a dict"),
        (b"ctorch\nSize\nK\1\x85R", "size of a tensor is 1"),
        (b"h\7", "damaged"),
        (b"t", "damaged"),
        (b"]a", "damaged"),
        (b"", "damaged"),
        (tensor()[:-1], "damaged"),
        (tensor()[:-2] + b"}X\3\0\0\0neg\x88stR", "stored with {'neg': True}"),
    ],
)
def test_other_programs_are_refused(tmp_path, program, message):
    assert message in refusal(saved(tmp_path / "x.pth", program))


def test_attributes_of_a_dict_are_left_out(tmp_path):
    program = b"ccollections\nOrderedDict\n)R}X\5\0\0\0items]sb"
    assert read_object(saved(tmp_path / "x.pth", program)) == {}


def test_broken_archives(tmp_path):
    path = tmp_path / "x.pth"
    assert "is missing" not in refusal(saved(path, STATE, byteorder=b"big")) and "byte order b'big'" in refusal(path)
    assert read_state(saved(path, STATE, byteorder=b"little"))
    assert "TorchScript" in refusal(saved(path, STATE, **{"constants.pkl": b"", "code/run.py": b""}))
    assert "holds 15 bytes" in refusal(saved(path, STATE, STORAGE[:-1]))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other.txt", "x")
    assert "0 data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data.pkl", b"}.")
        file.writestr("b/data.pkl", b"}.")
    assert "2 data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"}" * 10**6)
    assert "compressed" in refusal(path)


def test_paths_that_are_none(tmp_path):
    assert "no weights at" in refusal(tmp_path / "x.pth")
    (tmp_path / "x.npz").write_bytes(b"x")
    assert "it starts with b'x'), expected .pth, .pt, .ckpt, .bin, .safetensors" in refusal(tmp_path / "x.npz")


@pytest.mark.parametrize("written, named", [("x.pth", "x.safetensors"), ("x.safetensors", "x.pth"), ("x.pth", "x.tmp")])
def test_content_decides_not_the_name(tmp_path, written, named):
    write_state(tmp_path / written, state_dict())
    (tmp_path / written).rename(tmp_path / named)
    got = read_state(tmp_path / named)
    assert_same({key: got[key] for key in state_dict()}, state_dict())


EIGHT_BITS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_types_of_eight_bits_become_float32(tmp_path, torch, suffix):
    """All 256 values of each, against torch."""
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    state = {name: every.clone().view(getattr(torch, name)) for name in EIGHT_BITS}
    plain = {"half": torch.ones(3, dtype=torch.float16), "whole": torch.tensor([1, 2], dtype=torch.uint16)}
    path, said = tmp_path / f"x{suffix}", []
    if suffix == ".pth":
        torch.save(state | plain, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state | plain, path)
    got = read_state(path, say=said.append)
    for name, value in state.items():
        np.testing.assert_array_equal(got[name], value.float().numpy(), strict=True)
    assert (got["half"].dtype, got["whole"].dtype) == (np.float16, np.uint16)
    assert said[0].startswith(f"x{suffix}: 1 of float8_") and said[0].endswith("of its 7 tensors become float32")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_types_below_eight_bits_are_refused(tmp_path, torch, suffix):
    state = {"x": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    if suffix == ".pth":
        torch.save(state, tmp_path / "x.pth")
    else:
        pytest.importorskip("safetensors.torch").save_file(state, tmp_path / "x.safetensors")
    assert "float4_e2m1fn_x2" in (said := refusal(tmp_path / f"x{suffix}")) or "type F4, expected" in said


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_off_anywhere(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_state(path, {"weight": np.arange(6.0).reshape(2, 3), "bias": np.float32(1)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path)


def test_any_changed_byte_is_an_error_or_an_array(tmp_path):
    path = tmp_path / "x.pth"
    write_state(path, {"weight": np.arange(6.0).reshape(2, 3), "bias": np.float32(1)})
    whole, chance, read = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            found = read_state(path)
        except ValueError:
            continue
        read += sum(x.tobytes() != b"" for x in found.values())
    assert read


# Against torch itself.


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def numpy_of(value) -> np.ndarray:
    """A tensor's values; numpy has no bfloat16 of its own, so its bits go over as integers."""
    import torch

    value = value.detach()
    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if value.dtype == torch.bfloat16 else value.numpy()


def torch_states(torch) -> dict:
    """What a state dict may hold: every dtype, views, shared storages, parameters, scalars, nothing."""
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    state = {str(x): (50 * torch.randn(3, 4)).to(getattr(torch, str(x))) for x in DTYPES}
    state |= {"whole": base, "rows": base[1:3], "turned": base.transpose(0, 2), "stepped": base[::2, 1:, ::3]}
    state |= {"repeated": torch.randn(3, 1).expand(3, 4), "diagonal": base[0].diagonal(), "element": base[2, 3, 4]}
    state |= {"half": base.half()[:, 2], "thin": torch.randn(6).to(torch.bfloat16)[1::2]}
    state |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 3), "nothing": torch.tensor([]), "tail": base[4:]}
    state["parameter"] = torch.nn.Parameter(base[1])
    return state | {"frozen": torch.nn.Parameter(base[2], requires_grad=False)}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_saves_and_we_read(tmp_path, torch, protocol):
    state = torch_states(torch)
    torch.save(OrderedDict(state), tmp_path / "x.pth", pickle_protocol=protocol)
    got = read_state(tmp_path / "x.pth")
    assert_same(got, {key: numpy_of(value) for key, value in state.items()})
    assert np.shares_memory(got["whole"], got["turned"]) and np.shares_memory(got["rows"], got["whole"])
    assert got["turned"].strides == got["whole"].strides[::-1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_we_save_and_torch_reads(tmp_path, torch, suffix):
    path, state = tmp_path / f"x{suffix}", state_dict()
    write_state(path, state)
    if suffix == ".pth":
        loads = [torch.load(path, weights_only=True), torch.load(path, weights_only=True, mmap=True)]
        assert type(loads[0]) is OrderedDict
    else:
        loads = [pytest.importorskip("safetensors.torch").load_file(path)]
    for got in loads:
        assert_same({key: numpy_of(got[key]) for key in state}, state)
        assert all(value.is_contiguous() and not value.requires_grad for value in got.values())


def test_long_records(tmp_path, torch, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)  # as if tensors of more than 2 GiB
    write_state(tmp_path / "x.pth", state_dict())
    got = read_state(tmp_path / "x.pth")
    assert_same(got, state_dict())
    assert not any(x.ctypes.data % 64 for x in got.values() if x.size)
    assert_same({k: numpy_of(x) for k, x in torch.load(tmp_path / "x.pth", weights_only=True).items()}, state_dict())


def test_a_module_there_and_back(tmp_path, torch):
    make = lambda: torch.nn.Sequential(torch.nn.Conv1d(2, 3, 5), torch.nn.BatchNorm1d(3), torch.nn.GRU(3, 4))
    first, second = make(), make()
    torch.save(first.state_dict(), tmp_path / "a.pth")
    write_state(tmp_path / "b.pth", read_state(tmp_path / "a.pth"))
    second.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_training_checkpoint(tmp_path, torch):
    module = torch.nn.Linear(3, 2)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0, 1]}]}
    made = {"state_dict": module.state_dict(), "optimizer": optimizer}
    torch.save(made | {"epoch": 3, "shape": torch.Size([1, 2])}, tmp_path / "x.ckpt")
    assert_same(read_state(tmp_path / "x.ckpt"), {k: v.numpy() for k, v in module.state_dict().items()})
    found = read_object(tmp_path / "x.ckpt")
    assert (found["epoch"], found["shape"]) == (3, (1, 2))
    assert found["optimizer"]["param_groups"] == optimizer["param_groups"]
    assert_same(found["optimizer"]["state"][0], {k: v.numpy() for k, v in moments.items()})


def test_other_files_of_torch_are_refused(tmp_path, torch):
    path = tmp_path / "x.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "names torch.nn.modules.linear.Linear" in refusal(path)
    torch.save({"x": torch.ones(2).to_sparse()}, path)
    assert "names torch" in refusal(path)
    torch.save({"x": torch.ones(2, dtype=torch.complex64)}, path)
    assert "names torch.ComplexFloatStorage" in refusal(path)
    torch.save({"x": np.float64(2)}, path)
    assert "names numpy" in refusal(path)
