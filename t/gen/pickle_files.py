"""Writes t/fixtures/pickle: files of torch.save that must open, and hostile ones that must not.

Usage: python3 t/gen/pickle_files.py      from the root of the repository; needs torch and safetensors

good/opt.bin            tensors of models/opt, one file
good/mpt/               tensors of models/mpt in two shards with their index
good/views.bin, .json   every way in which a tensor may lie in a storage, and the values it must have
bad/*.bin, bad.json     files to refuse, and why
"""
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path("t/fixtures")
OUT = ROOT / "pickle"


# --- good files: what torch itself writes


def good():
    dst = OUT / "good"
    (dst / "mpt").mkdir(parents=True, exist_ok=True)

    model = torch.nn.Module()       # a state_dict of a module has _metadata, which BUILD sets
    tensors = load_file(ROOT / "models/opt/model.safetensors")
    state = model.state_dict()
    state.update(tensors)
    torch.save(state, dst / "opt.bin")

    tensors = load_file(ROOT / "models/mpt/model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
    for i, part in enumerate((names[:half], names[half:]), 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({n: tensors[n].clone() for n in part}, dst / "mpt" / file)
        index["weight_map"].update({n: file for n in part})
    (dst / "mpt/pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
    views(dst)


def views(dst):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    shared = torch.arange(100, 112, dtype=torch.float16)
    t = OrderedDict(
        whole=base, rows=base[1:3], transposed=base.t(), column=base[:, 2:3].clone(),
        one_row_transposed=base[2:3].t(), scalar=torch.tensor(3.5), empty=torch.zeros(0, 5),
        tied_a=shared, tied_b=shared, slice=shared[4:7], cube=base.reshape(2, 3, 4),
        parameter=torch.nn.Parameter(torch.ones(2, 2)), bf16=torch.tensor([1.5, -2.0]).bfloat16(),
        f64=torch.tensor([0.1], dtype=torch.float64), i64=torch.tensor([-7, 2**40]),
        i32=torch.tensor([-3], dtype=torch.int32), i16=torch.tensor([300], dtype=torch.int16),
        i8=torch.tensor([-5], dtype=torch.int8), u8=torch.tensor([250], dtype=torch.uint8),
        boolean=torch.tensor([True, False]), not_a_tensor=5, nothing=None, text="x",
        numbers=[1, 2, 3], pair=(1.5, True), nested={"a": torch.ones(1)})
    t["name with \u00e9"] = torch.tensor([1.0])
    want = {n: {"shape": list(v.shape), "values": v.double().reshape(-1).tolist()}
            for n, v in t.items() if isinstance(v, torch.Tensor)}
    torch.save(t, dst / "views.bin")
    torch.save(t, dst / "views4.bin", pickle_protocol=4)
    (dst / "views.json").write_text(json.dumps(want, indent=1) + "\n")


# --- bad files: pickles by hand


def text(s):
    b = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(b)) + b


def num(i):
    if 0 <= i < 256:
        return b"K" + bytes([i])
    if -2**31 <= i < 2**31:
        return b"J" + struct.pack("<i", i)
    return b"\x8a" + bytes([8]) + struct.pack("<q", i)


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def tup(*items):
    return b"(" + b"".join(items) + b"t"


FLOATS = glob("torch", "FloatStorage")


def storage(key="0", n=4, kind=FLOATS):
    return tup(text("storage"), kind, text(key), text("cpu"), num(n)) + b"Q"


def tensor(st=None, first=0, shape=(4,), stride=(1,), fn="_rebuild_tensor_v2"):
    hooks = glob("collections", "OrderedDict") + b")R"
    return (glob("torch._utils", fn)
            + tup(st or storage(), num(first), tup(*map(num, shape)), tup(*map(num, stride)), b"\x89", hooks) + b"R")


def program(*pairs, tail=b"."):
    return b"\x80\x02}(" + b"".join(pairs) + b"u" + tail


def one(value, name="a"):
    return program(text(name) + value)


def write(path, data, extra=(), storages=None, compress=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as z:
        def add(name, content):
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content,
                       zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
        add("archive/data.pkl", data)
        for name, content in {"0": bytes(16), **(storages or {})}.items():
            add(f"archive/data/{name}", content)
        for name, content in extra:
            add(name, content)


def reduce_of(obj):
    class Evil:
        def __reduce__(self):
            return obj
    return pickle.dumps({"a": Evil()}, 2)


def programs():
    import os
    sys_name = os.system.__module__
    yield "os_system", reduce_of((os.system, ("true",))), f"runs {sys_name}.system"
    yield "eval", reduce_of((eval, ("1",))), "runs eval"
    yield "exec_stack_global", b"\x80\x04" + b"\x8c\x08builtins\x8c\x04exec\x93.", "names exec by STACK_GLOBAL"
    yield "numpy", one(glob("numpy.core.multiarray", "_reconstruct")), "a callable that is not torch's"
    yield "torch_load", one(glob("torch", "load")), "a callable of torch that is not a tensor"
    yield "attribute", one(glob("torch._utils", "_rebuild_tensor_v2.__globals__")), "attribute of an allowed name"
    yield "call_storage", one(glob("torch", "FloatStorage") + num(5) + b"\x85R"), "calls a storage type"
    yield "call_tensor", one(tensor() + b")R"), "calls a tensor"
    yield "call_text", one(text("f") + b")R"), "calls a text"
    yield "dict_with_arguments", one(glob("collections", "OrderedDict") + num(1) + b"\x85R"), "OrderedDict of an integer"
    yield "rebuild_integer", one(glob("torch._utils", "_rebuild_tensor_v2") + tup(*[num(1)] * 6) + b"R"), "tensor of integers"
    yield "parameter_of_text", one(glob("torch._utils", "_rebuild_parameter") + tup(text("x")) + b"R"), "parameter of a text"
    yield "build_tensor", one(tensor() + b"}b"), "sets the state of a tensor"
    for name, op in (("inst", b"(ios\nsystem\n"), ("obj", b"(cos\nsystem\no"), ("newobj", b")\x81"), ("ext1", b"\x82\x01"),
                     ("dup", b"2"), ("pop", b"0"), ("set", b"\x8f"), ("persid", b"P1\n"), ("bytes", b"C\x01a"),
                     ("long4", b"\x8b\x01\x00\x00\x00\x01"), ("unknown_opcode", b"\xff")):
        yield name, b"\x80\x02" + op + b".", f"instruction {name}"
    yield "protocol_0", b"\x80\x00}.", "protocol 0"
    yield "protocol_9", b"\x80\x09}.", "protocol 9"
    yield "empty", b"", "no pickle"
    yield "no_stop", b"\x80\x02}", "no STOP"
    yield "after_stop", one(tensor()) + b"N.", "bytes behind STOP"
    yield "two_values", b"\x80\x02N}.", "two values at STOP"
    yield "no_value", b"\x80\x02.", "no value at STOP"
    yield "not_a_dict", b"\x80\x02" + tensor() + b".", "a tensor without a name"
    yield "deep_marks", b"\x80\x02" + b"(" * 70000 + b".", "a stack of marks"
    yield "deep_tuples", b"\x80\x02)" + b"\x85" * 30000 + b".", "nesting must not exhaust anything"
    yield "tuple_bomb", b"\x80\x02)" + b"".join(b"q\x01h\x01\x86" for _ in range(64)) + b".", "2^64 members when expanded"
    yield "memo_bomb", b"\x80\x02Nr\xff\xff\xff\xff.", "a memo of 2^32 slots"
    yield "memo_empty", b"\x80\x02h\x05.", "a slot that was not filled"
    yield "memo_of_mark", b"\x80\x02(q\x00.", "a mark in the memo"
    yield "text_too_long", b"\x80\x02X\xff\xff\xff\x7fab.", "text longer than the file"
    yield "text8_too_long", b"\x80\x04\x8d" + b"\xff" * 8 + b"ab.", "text of 2^64-1 bytes"
    yield "cut_argument", b"\x80\x02X\x01", "ends inside an argument"
    yield "line_without_end", b"\x80\x02ctorch", "ends inside a name"
    yield "integer_of_9_bytes", one(b"\x8a\x09" + b"\x01" * 9), "integer beyond 64 bits"
    yield "set_without_mark", b"\x80\x02}u.", "SETITEMS without MARK"
    yield "key_without_value", b"\x80\x02}(" + text("a") + b"u.", "key without value"
    yield "set_on_tuple", b"\x80\x02)(" + text("a") + b"Nu.", "members of a tuple"
    yield "append_to_dict", b"\x80\x02}Na.", "appends to a dictionary"
    yield "mark_as_value", b"\x80\x02}(s.", "a mark as a value"
    yield "tuple_of_nothing", b"\x80\x02\x86.", "a pair from an empty stack"
    yield "global_of_numbers", b"\x80\x04K\x01K\x02\x93.", "STACK_GLOBAL of integers"
    yield "persid_of_text", one(text("x") + b"Q"), "persistent id is a text"
    yield "persid_of_module", one(tup(text("module"), FLOATS, text("0"), text("cpu"), num(4)) + b"Q"), "persistent id of a module"
    yield "storage_of_dict", one(storage(kind=glob("collections", "OrderedDict"))), "storage of no type"
    yield "storage_negative", one(tensor(storage(n=-4))), "storage of -4 values"
    yield "storage_missing", one(tensor(storage("7"))), "storage that is not in the file"
    yield "storage_outside", one(tensor(storage("../data.pkl"))), "storage outside its folder"
    yield "storage_size", one(tensor(storage(n=5))), "storage of another size"
    yield "storage_overflow", one(tensor(storage(n=2**62))), "size of the storage overflows"
    yield "offset_negative", one(tensor(first=-1)), "negative offset"
    yield "offset_beyond", one(tensor(first=1)), "one value too far"
    yield "offset_huge", one(tensor(first=2**62)), "offset overflows"
    yield "shape_beyond", one(tensor(shape=(5,))), "more values than the storage"
    yield "shape_overflow", one(tensor(shape=(2**32, 2**32), stride=(2**32, 1))), "shape overflows"
    yield "shape_negative", one(tensor(shape=(-1,))), "negative dimension"
    yield "shape_of_text", one(glob("torch._utils", "_rebuild_tensor_v2")
                               + tup(storage(), num(0), tup(text("4")), tup(num(1)), b"\x89", b"N") + b"R"), "shape of texts"
    yield "nine_dims", one(tensor(shape=(1,) * 9, stride=(1,) * 9)), "nine dimensions"
    yield "stride_count", one(tensor(shape=(2, 2), stride=(2,))), "fewer strides than dimensions"
    yield "stride_zero", one(tensor(shape=(1000, 4), stride=(0, 1))), "rows that overlap"
    yield "stride_overlap", one(tensor(shape=(2, 3), stride=(1, 1))), "rows that overlap in part"
    yield "stride_gap", one(tensor(shape=(2, 1), stride=(3, 1))), "gaps between rows"
    yield "stride_cube", one(tensor(shape=(2, 1, 2), stride=(1, 1, 2))), "permuted dimensions"
    yield "twice", program(text("a") + tensor() + text("a") + tensor()), "the same tensor twice"
    yield "name_not_utf8", one(tensor(), b"a\xff"), "name is not UTF-8"
    yield "name_with_nul", one(tensor(), "a\0b"), "NUL in a name"
    yield "no_tensors", one(num(5)), "no tensors"
    yield "state_dict_inside", one(b"}" + text("w") + tensor() + b"s", "state_dict"), "tensors one level down"


def bad():
    dst = OUT / "bad"
    dst.mkdir(parents=True, exist_ok=True)
    why = {}

    def put(name, reason, data, **kw):
        why[name + ".bin"] = reason
        write(dst / f"{name}.bin", data, **kw)

    fine = one(tensor())
    for name, data, reason in programs():
        put(name, reason, data)
    put("compressed", "entries are deflated", fine, compress=True)
    put("big_endian", "the other byte order", fine, extra=[("archive/byteorder", b"big")])
    put("byteorder_long", "a byte order of many bytes", fine, extra=[("archive/byteorder", b"little" * 50)])
    put("two_pickles", "two pickles", fine, extra=[("other/data.pkl", fine)])
    patched(dst, why, fine)
    (OUT / "bad.json").write_text(json.dumps(why, indent=1) + "\n")


def patched(dst, why, fine):
    """Files whose zip directory is damaged."""
    write(dst / "tmp.bin", fine)
    raw = (dst / "tmp.bin").read_bytes()
    (dst / "tmp.bin").unlink()
    end = raw.rindex(b"PK\5\6")
    start, = struct.unpack_from("<I", raw, end + 16)
    second = raw.index(b"PK\1\2", start + 4)

    def put(name, reason, *changes, data=raw):
        data = bytearray(data)
        for at, fmt, v in changes:
            struct.pack_into(fmt, data, at, v)
        (dst / f"{name}.bin").write_bytes(data)
        why[name + ".bin"] = reason

    put("zip_empty", "an empty file", data=b"")
    put("zip_truncated", "the end is missing", data=raw[:-1])
    put("zip_half", "half a file", data=raw[:len(raw) // 2])
    put("zip_legacy", "a pickle without a zip file", data=b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    put("zip_disks", "several disks", (end + 4, "<H", 1))
    put("zip_directory_beyond", "directory past the end", (end + 16, "<I", len(raw)))
    put("zip_directory_huge", "directory of 4 GB", (end + 12, "<I", 0xfffffff0))
    put("zip_count_huge", "more entries than the directory can hold", (end + 10, "<H", 0xfff0))
    put("zip_count_more", "one entry more than there is", (end + 10, "<H", 3))
    put("zip_signature", "no entry where one should be", (start, "<I", 0))
    put("zip_name_beyond", "name longer than the directory", (start + 28, "<H", 0xffff))
    put("zip_encrypted", "an encrypted entry", (start + 8, "<H", 1))
    put("zip_sizes", "stored in fewer bytes than it has", (start + 20, "<I", 1))
    put("zip_entry_beyond", "entry past the end", (second + 42, "<I", 0x7fffffff))
    put("zip_entry_elsewhere", "no header where the entry should start", (second + 42, "<I", 3))
    put("zip_entry_too_long", "entry longer than the file", (second + 20, "<I", 0x7fffffff), (second + 24, "<I", 0x7fffffff))
    put("zip_no_64", "64-bit size that is not there", (second + 24, "<I", 0xffffffff))
    put("zip_overlap", "two entries share bytes", data=overlap(dst, fine))
    put("zip_duplicate", "the same name twice", data=duplicate(raw, start, second, end))
    bad64 = raw[:end] + struct.pack("<IIQI", 0x07064b50, 0, 2**63, 1) + raw[end:]
    put("zip_locator_beyond", "zip64 end record past the end", data=bad64)
    bad64 = raw[:end] + bytes(56) + struct.pack("<IIQI", 0x07064b50, 0, end, 1) + raw[end:]
    put("zip_locator_elsewhere", "no zip64 end record where one should be", data=bad64)


def overlap(dst, fine):
    """A storage whose name is as long as that of the pickle starts where the pickle does."""
    write(dst / "tmp.bin", fine, storages={"000": bytes(len(fine))})
    raw = bytearray((dst / "tmp.bin").read_bytes())
    (dst / "tmp.bin").unlink()
    entry = raw.rindex(b"archive/data/000") - 46
    struct.pack_into("<I", raw, entry + 42, 0)
    return bytes(raw)


def duplicate(raw, start, second, end):
    """data/0 twice, the second time with bytes of its own."""
    local = raw.rindex(b"PK\3\4")
    body = raw[:start] + raw[local:start]
    entry = bytearray(raw[second:end])
    struct.pack_into("<I", entry, 42, start)
    tail = bytearray(raw[end:])
    struct.pack_into("<HHII", tail, 8, 3, 3, end - start + len(entry), len(body))
    return body + raw[start:end] + bytes(entry) + bytes(tail)


if __name__ == "__main__":
    torch.manual_seed(0)
    good()
    bad()
