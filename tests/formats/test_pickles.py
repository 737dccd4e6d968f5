"""The restricted pickle machine: what it reads, what it refuses, and that it runs nothing and never gets lost."""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import random
import runpy
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import pickle_stack
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.pickle_arrays import Array
from emotiw_keras.formats.pickles import load_pickle

PROTOCOLS = range(6)
NUMPY_2_BYTES = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"


def load(data: bytes, limits: Limits | None = None, **options: Any) -> Any:
    return load_pickle(memoryview(data), "w.pkl", limits or Limits(), **options)[0]


def refused(data: bytes, limits: Limits | None = None, **options: Any) -> str:
    """The error of a pickle, which must be one line that names the file."""
    with pytest.raises(ModelError) as caught:
        load(data, limits, **options)
    message = str(caught.value)
    assert message.startswith("w.pkl") and message.isprintable(), message
    return message


def plain(value: Any) -> Any:
    """The value with arrays in place of what the machine gives for them."""
    if isinstance(value, Array):
        return value.array
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_python_values_as_pickle_does(protocol: int) -> None:
    value = {
        "text": "é\n\\'\"",
        b"bytes": b"\x00\xff",
        "numbers": [0, -1, 255, 65536, 2**40, -(2**200), 1.5, float("inf"), True, False, None],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "set": {1, "a"},
        "frozen": frozenset((3, b"b")),
        "long": "x" * 70_000,
        7: collections.OrderedDict([("a", 1), ("b", [])]),
        None: collections.Counter("aab"),
        2.5: collections.defaultdict(list, a=[1]),
    }
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["?", "i1", "u2", "<i8", ">i4", "<f2", ">f4", "f8"])
def test_reads_arrays_as_pickle_does(protocol: int, code: str) -> None:
    numbers = np.arange(24).reshape(2, 3, 4)
    for array in (numbers, np.asfortranarray(numbers), numbers[:, ::2, ::-1], numbers[:0], np.array(7)):
        array = array.astype(code, order="K")
        read = plain(load(pickle.dumps(array, protocol)))
        assert read.dtype == array.dtype and read.shape == array.shape
        assert np.array_equal(read, array)


def test_numpy_scalars_and_old_module_names() -> None:
    data = pickle.dumps({"a": np.float32(2.5), "b": np.ones((2, 2), np.float32)}, 2)
    assert b"numpy._core" in data or b"numpy.core" in data
    for module in (b"numpy.core", b"numpy._core"):
        read = plain(load(data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)))
        assert read["a"] == np.float32(2.5) and read["a"].shape == ()
        assert np.array_equal(read["b"], np.ones((2, 2)))


def test_python_2_strings_are_latin_1_and_their_arrays_are_read() -> None:
    state = b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    data = NUMPY_2_BYTES + state + b"U\x08" + np.array([1.5, -2], "<f4").tobytes() + b"tb."
    assert np.array_equal(plain(load(data)), np.array([1.5, -2], np.float32))
    assert load(b"U\x02\xe9x.") == "éx"
    assert load(b"S'\\xe9\\'\\n'\n.") == "é'\n"


def test_long_arrays_are_views_of_the_file() -> None:
    array = np.arange(1 << 20, dtype=np.float32)
    data = pickle.dumps({"a": array, "b": array, "c": [array]}, 4)
    tracemalloc.start()
    read = load(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18
    assert not read["a"].array.flags.writeable and np.array_equal(read["a"].array, array)
    assert read["b"] is read["a"] and read["c"][0] is read["a"]


class Call:
    """Pickles as a call of any function, and then a state."""

    def __init__(self, function: Callable[..., Any], *args: object, state: object = None) -> None:
        self.reduced = (function, args, state) if state is not None else (function, args)

    def __reduce__(self) -> Any:
        return self.reduced


def _calls(target: Path) -> dict[str, object]:
    code = f"open({str(target)!r}, 'w').close()"
    return {
        f"{os.name}.system": Call(os.system, f"touch {target}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "io.open": Call(open, str(target), "w"),
        "builtins.getattr": Call(getattr, target, "touch"),
        "runpy.run_path": Call(runpy.run_path, str(target)),
        "numpy.load": Call(np.load, str(target)),
        "numpy.fromfile": Call(np.fromfile, str(target)),
        "builtins.object": Call(object, state={"__class__": 1}),
        "copyreg._reconstructor": Call(__import__("copyreg")._reconstructor, Path, object, None),
        "collections.deque": collections.deque([1]),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(_calls(Path("x"))))
def test_a_pickle_that_would_run_something_does_not(tmp_path: Path, name: str, protocol: int) -> None:
    target = tmp_path / "written"
    data = pickle.dumps({"conv1": [np.zeros(3)], "x": _calls(target)[name]}, protocol)
    message = refused(data)
    asked = message.split("asks to call ")[1].split(",")[0]
    assert asked.replace("__builtin__", "builtins").replace("copy_reg", "copyreg") == name or asked == "pathlib.PosixPath"
    assert "only needs arrays" in message
    assert not target.exists()


def test_the_same_pickle_does_run_in_pickle_itself(tmp_path: Path) -> None:
    target = tmp_path / "written"
    pickle.loads(pickle.dumps(_calls(target)["builtins.exec"]))
    assert target.exists()


def test_known_names_cannot_be_turned_to_other_ends() -> None:
    for data, word in (
        (b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\ndict\n(I0\ntS'b'\ntR.", "_reconstruct"),
        (b"cnumpy\nndarray\n(I5\ntR.", "numpy.ndarray"),
        (b"cbuiltins\ndict\n)R.", "builtins.dict"),
        (b"c_codecs\nencode\n(VYQ==\nVbase64\ntR.", "_codecs.encode"),
        (b"cnumpy\ndtype\n(I5\ntR.", "numpy.dtype"),
        (b"cnumpy.core.numeric\n_frombuffer\n).", ""),
        (b"(S'touch x'\nios\nsystem\n.", "os.system"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"(cnumpy\nndarray\nK\x05o.", "OBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"Psome key\n.", "PERSID"),
        (b"K\x01Q.", "outside"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"K\x01\x8c\x06system\x93.", "not text"),
        (b"K\x01)R.", "no function"),
        (b"](K\x01K\x02d.", ""),
    ):
        try:
            load(data)
        except ModelError as error:
            assert word in str(error), (data, error)
        else:
            assert not word, data


def _state(shape: object, code: str, data: object, fortran: object = False) -> bytes:
    """A protocol-2 pickle of an array with any state."""
    dtype = b"cnumpy\ndtype\n" + pickle.dumps((code, 0, 1), 2)[2:-1] + b"R"
    head = b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + dtype
    return NUMPY_2_BYTES + head + pickle.dumps(fortran, 2)[2:-1] + b"U" + bytes([len(data)]) + data + b"tb."  # type: ignore


@pytest.mark.parametrize(
    ("shape", "code", "words"),
    [
        ((2,), "f4", "needs 8 bytes and has 16"),
        ((1 << 40, 1 << 40), "f4", "larger than"),
        ((0, 1 << 62), "f4", "larger than"),
        ((-4,), "f4", "-4"),
        ((1 << 2000,), "f4", "huge"),
        ((True,), "f4", "a bool"),
        ("4", "f4", "no shape"),
        ((1,) * 33, "f4", "no shape"),
        ((2,), "O", "dtype O"),
        ((2,), "S8", "dtype S8"),
        ((1,), "f4,f4,f4,f4", "dtype"),
        ((1,), "c16", "dtype c16"),
        ((2,), "M8[s]", "dtype M8[s]"),
    ],
)
def test_an_array_needs_exactly_its_bytes(shape: object, code: str, words: str) -> None:
    assert words in refused(_state(shape, code, bytes(16)))
    assert plain(load(_state((4,), "f4", bytes(16)))).shape == (4,)


def test_objects_in_arrays_are_not_numbers() -> None:
    read = load(pickle.dumps(np.array({"a": 1}, dtype=object)))
    assert read.array is None and read.objects == [{"a": 1}]


def test_every_opcode_is_read_or_refused() -> None:
    before = [
        b"",
        b"N",
        b"(",
        b"(NN",
        b"](",
        b"}(",
        b"\x8f(",
        b"))",
        b"NN",
        b"cnumpy\nndarray\n)",
        b"c_codecs\nencode\n(Va\nVlatin1\nt",
        b"]N",
        b"}NN",
        b"NNN",
        b"Nq\x01Nq\x00",
        b"}}",
        b"U\x05numpyU\x05dtype",
    ]
    arguments = {
        "decimalnl_short": [b"0\n", b"x\n"],
        "decimalnl_long": [b"7L\n", b"\n"],
        "floatnl": [b"1.5\n", b"one\n"],
        "stringnl": [b"'x'\n", b"x\n"],
        "stringnl_noescape": [b"x\n", b"x"],
        "stringnl_noescape_pair": [b"numpy\ndtype\n", b"os\nsystem\n"],
        "unicodestringnl": [b"x\n", b"\\u1\n"],
    }
    outcomes: dict[str, set[bool]] = {op.name: set() for op in pickletools.opcodes}
    for op in pickletools.opcodes:
        # Numbers, and texts and bytes of one letter behind a count of one, eight or four bytes.
        binary = [b"\x01\x00", b"\x01a", b"\x01" + bytes(7) + b"a", b"\x01" + bytes(3) + b"a", bytes(8), b"\xff" * 12]
        for start in before:
            for argument in arguments.get(op.arg.name, binary) if op.arg else [b""]:
                for length in range(len(argument) + 1):
                    try:
                        load(start + op.code.encode("latin-1") + argument[:length] + b".")
                        outcomes[op.name].add(True)
                    except ModelError as error:
                        assert str(error).isprintable()
                        outcomes[op.name].add(False)
    makers = {"EXT1", "EXT2", "EXT4", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "PERSID", "BINPERSID"}
    elsewhere = {"NEXT_BUFFER", "READONLY_BUFFER"}
    # A mark leaves nothing above it to end with.
    assert {name for name, seen in outcomes.items() if True not in seen} == makers | elsewhere | {"MARK"}


def test_a_wrong_byte_is_no_opcode() -> None:
    assert "is 255, which is no opcode" in refused(b"\x80\x02\xff.")
    assert "without a STOP" in refused(b"")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_anywhere(protocol: int) -> None:
    data = pickle.dumps({"conv1": [np.ones((3, 5), np.float32), np.arange(4)], "é": {"a": 1.5, b"b": 2**70}}, protocol)
    for part in range(37):
        assert "fetch it again" in refused(data[: len(data) * part // 37])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutated_anywhere(protocol: int) -> None:
    draw = random.Random(protocol)
    value = {"conv1": [np.ones((3, 5), np.float32), np.arange(4)], "é": {"a": 1.5, b"b": 2**70, "c": {1, 2}}}
    data = pickle.dumps(value, protocol)
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.choice((0, 1, 40, 46, 82, 128, 255, draw.randrange(256)))
        try:
            load(bytes(changed))
        except ModelError as error:
            assert str(error).isprintable()


BOMBS = {
    "laughs": b"N" + b"\x85" + b"2222222222\x86\x86\x86" * 2_000 + b".",
    "shared tuples": b")" + b"22\x87" * 10_000 + b".",
    "deep lists": b"]" * 10_000 + b"a" * 9_999 + b".",
    "deep dicts": b"}U\x01a" * 10_000 + b"}" + b"s" * 10_000 + b".",
    "deep marks": b"(" * 10_000 + b"t" * 10_000 + b".",
    "list in itself": b"]q\x00h\x00a.",
    "dict in itself": b"}q\x00Nh\x00s.",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_stay_as_small_as_their_text(name: str) -> None:
    tracemalloc.start()
    value = load(BOMBS[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(value, (list, tuple, dict))
    assert peak < 100 * len(BOMBS[name]) + 100_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"](" + b"N" * 2000 + b"e0](((" + b"N" * 4, ""),
        (
            b"c_codecs\nencode\nq\x00(X\xd0\x07\x00\x00"
            + b"x" * 2000
            + b"X\x06\x00\x00\x00latin1tq\x01R"
            + b"h\x00h\x01R" * 9
            + b".",
            "bytes",
        ),
        (b"](" + b"".join(b"J" + struct.pack("<i", i) + b"]" for i in range(10_001)) + b"d.", "numbers as keys"),
        (b"\x8a\xff" + b"\x01" * 255 + b"\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b".", "1,048,576 bytes"),
        (b"\x8b" + struct.pack("<i", -5) + b".", "-5"),
        (b"I" + b"9" * 5000 + b"\n.", "5,000 digits"),
        (b"F1.2.3\n.", "no number"),
        (b"B\xff\xff\xff\xff.", "4,294,967,295"),
        (b"\x8e" + b"\xff" * 8 + b".", "18,446,744,073,709,551,615"),
        (b"Nr\xff\xff\xff\x7f.", "2147483647"),
        (b"Np-1\n.", "-1"),
        (b"h\x05.", "has not made"),
        (b"N)N.", ""),
        (b"(NNNu.", "stack"),
        (b"}(Nu.", "without a value"),
        (b"}]Ns.", "list as a key"),
        (b"})Ns.", "tuple as a key"),
        (b"NNa.", "appends to a NoneType"),
        (b"N\x90.", "mark"),
        (b"X\x02\x00\x00\x00\xff\xff.", "not utf-8"),
        (b"V\\u12\n.", "raw-unicode-escape"),
        (b"S'\\x4'\n.", "cannot be read"),
        (b"S'\\d'\n.", "cannot be read"),
        (b"Sx\n.", "no quotes"),
        (b"S'x", "no end"),
        (b"cos\xff\nsystem\n.", "not utf-8"),
        (b"c" + b"a\x1b[31m" * 50 + b"\nb\n.", "asks to call"),
        (b"ccollections\nOrderedDict\n(]N]ettR.", ""),
        (b"ccollections\nOrderedDict\n(](NetR.", "no pairs"),
        (b"ccollections\nOrderedDict\n(NtR.", "NoneType"),
    ],
)
def test_what_no_weight_file_does_is_refused(data: bytes, words: str) -> None:
    if words:
        assert words in refused(data)
    else:
        try:
            load(data)
        except ModelError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize("form", ["state", "_frombuffer"])
def test_one_text_is_no_more_bytes_than_the_pickle_has(form: str) -> None:
    """As Python 2 wrote arrays: their bytes as text, here the same for many of them."""
    text = b"(X\xd0\x07\x00\x00" + b"x" * 2000
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tRq\x00"
    shape = b"M\xd0\x07\x85"
    if form == "state":
        state = b"(K\x01" + shape + b"h\x00\x89" + text[1:] + b"tq\x010"
        make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00btRh\x01b0"
    else:
        state = text + b"h\x00" + shape + b"X\x01\x00\x00\x00Ctq\x010"
        make = b"cnumpy.core.numeric\n_frombuffer\nh\x01R0"
    assert load(dtype + b"0" + state + make + b"N.") is None
    assert "more bytes of text than it has" in refused(dtype + b"0" + state + make * 100 + b"N.")


def test_no_pickle_takes_more_steps_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_stack, "STEPS", 5000)
    assert load(b"N" + b"2" * 4998 + b".") is None
    assert "more than 5,000 steps" in refused(b"N" + b"2" * 4999 + b".")


def test_copies_of_a_list_count_as_steps() -> None:
    copies = b"ccollections\nOrderedDict\nq\x00(](" + b"(K\x01K\x02t" * 2000 + b"etq\x01R" + b"0h\x00h\x01R" * 2000 + b"."
    assert "numbers as keys" in refused(copies) or "steps" in refused(copies)
    sets = b"cbuiltins\nset\nq\x00(](" + b"X\x01\x00\x00\x00a" * 2000 + b"etq\x01R" + b"0h\x00h\x01R" * 2000 + b"."
    assert "steps" in refused(sets)


def test_advice_is_the_readers_own() -> None:
    assert "do this instead" in refused(pickle.dumps(Path("x")), advice="do this instead")
