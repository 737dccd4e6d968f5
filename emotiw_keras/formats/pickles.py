"""Pickles of strangers, read without executing anything.

A pickle is a program for a stack machine that may call any function by its name. This machine knows a list of names, each
with a function of ours in its place, and refuses the others; it takes no more steps than `STEPS` and copies no more bytes
than the pickle has. Source: the opcodes' description in CPython's `pickletools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.pickle_arrays import (
    NUMPY_NAMES,
    Array,
    Context,
    DType,
    Named,
    plain_name,
    set_array_state,
    set_dtype_state,
)
from emotiw_keras.formats.pickle_ops import Opcodes, shown
from emotiw_keras.formats.pickle_stack import Stack

_NUMBER_KEYS = 10_000  # Numbers can be chosen to collide in a dict, which makes it slow; text cannot.
_NEWEST = 5

Names = Mapping[str, Callable[[tuple[Any, ...], Context], Any] | None]
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")
_SETS = ("builtins.set", "builtins.frozenset")
_CLASSES = ("builtins.dict", "builtins.list", "builtins.int", "builtins.float")  # of a defaultdict; never called
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES "
    "BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_GETS = ("GET", "BINGET", "LONG_BINGET")
_MEMO_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def load_pickle(
    data: memoryview,
    where: str,
    limits: Limits,
    *,
    position: int = 0,
    names: Names | None = None,
    persistent: Callable[[Any], Any] | None = None,
    advice: str = "save its arrays as a plain .npz",
) -> tuple[Any, int]:
    """Read one pickle of protocols 0 to 5, from Python 2 or 3.

    Args:
        data: the bytes it is in, which it may end before the end of.
        where: the file's name, for errors.
        limits: of the bytes of one array.
        position: its first byte.
        names: what it may name besides NumPy's arrays and Python's containers -> the function in its place, or None for a
            class that is only compared.
        persistent: what an object kept outside the pickle is, by its identifier.
        advice: how to make a file that can be read, said where the pickle asks for a name that is not known.

    Returns:
        The object and the position behind it. Dictionaries of every kind are `dict`; arrays are `Array`, read-only views
        of `data` where it holds them as they are; long bytes are views. Containers may hold themselves.

    Raises:
        ModelError: it names anything else, is damaged, or takes too many steps.

    Example:
        >>> import pickle
        >>> load_pickle(memoryview(pickle.dumps({"a": [1, 2.5]})), "x", Limits())[0]
        {'a': [1, 2.5]}
    """
    machine = _Machine(data, position, Context(where, limits, len(data)), {**NUMPY_NAMES, **(names or {})}, persistent, advice)
    return machine.run()


class _Machine(Stack):
    def __init__(
        self,
        data: memoryview,
        position: int,
        context: Context,
        names: Names,
        persistent: Callable[[Any], Any] | None,
        advice: str,
    ) -> None:
        super().__init__(Opcodes(data, position, context.where))
        self._context = context
        self._names = names
        self._persistent = persistent
        self._advice = advice
        self._number_keys = 0

    def run(self) -> tuple[Any, int]:
        for name, argument in self.opcodes:
            self.spend(1)
            if name in _LITERALS:
                self.push(argument)
            elif name in _CONSTANTS:
                self.push(_CONSTANTS[name])
            elif name in _TUPLES:
                self.need(_TUPLES[name])
                items = self.stack[-_TUPLES[name] :]
                self.stack[-_TUPLES[name] :] = [tuple(items)]
            elif name in _MEMO_GETS:
                self.get(argument)
            elif name in _MEMO_PUTS:
                self.put(argument)
            else:
                self._other(name, argument)
        return self.pop(), self.opcodes.position

    def _other(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO":
                if argument > _NEWEST:
                    self.fail(f"is of protocol {argument}, the newest known is {_NEWEST},")
            case "FRAME" | "STOP":
                pass
            case "MARK":
                self.mark()
            case "POP":
                self.stack.pop() if self.stack else self.to_mark()
            case "POP_MARK":
                self.to_mark()
            case "DUP":
                self.need(1)
                self.push(self.stack[-1])
            case "MEMOIZE":
                self.put()
            case "GLOBAL":
                self.push(self._named(argument))
            case "STACK_GLOBAL":
                self.need(2)
                attribute, module = self.stack.pop(), self.stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    self.fail("names something by what is not text")
                self.push(self._named(f"{module}.{attribute}"))
            case "REDUCE":
                self.need(2)
                args, function = self.stack.pop(), self.stack.pop()
                self.push(self._call(function, args))
            case "BUILD":
                state = self.pop()
                self._build(self.top((Array, DType, dict), "sets the state of"), state)
            case "BINPERSID":
                self.push(self._kept_outside(self.pop()))
            case "INST":
                self._named(argument)  # a known name is a function or an array, and neither is made this way
                self.fail(f"makes an instance of {shown(argument)}")
            case _:
                self._container(name)

    def _container(self, name: str) -> None:
        match name:
            case "EMPTY_LIST":
                self.push([])
            case "EMPTY_DICT":
                self.push({})
            case "EMPTY_SET":
                self.push(set())
            case "LIST":
                self.push(self.to_mark())
            case "TUPLE":
                self.push(tuple(self.to_mark()))
            case "DICT":
                self.push(self._filled({}, self.to_mark()))
            case "FROZENSET":
                self.push(frozenset(map(self._key, self.to_mark())))
            case "APPEND":
                item = self.pop()
                self.top(list, "appends to").append(item)
            case "APPENDS":
                items = self.to_mark()
                self.top(list, "appends to").extend(items)
            case "SETITEM":
                self.need(2)
                items = self.stack[-2:]
                del self.stack[-2:]
                self._filled(self.top(dict, "sets an item of"), items)
            case "SETITEMS":
                items = self.to_mark()
                self._filled(self.top(dict, "sets items of"), items)
            case "ADDITEMS":
                items = self.to_mark()
                self.top(set, "adds items to").update(map(self._key, items))
            case _:
                # EXT1, EXT2, EXT4, NEWOBJ, NEWOBJ_EX, OBJ, PERSID, NEXT_BUFFER, READONLY_BUFFER
                self._refuse(f"uses {name}, which makes objects of other classes or takes them from elsewhere")

    def _filled(self, target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            self.fail("sets a key without a value")
        for i in range(0, len(items), 2):
            target[self._key(items[i])] = items[i + 1]
        return target

    def _key(self, value: Any) -> Any:
        if not isinstance(value, (str, bytes)):
            if value is not None and type(value) not in (int, float, bool):
                self.fail(f"has a {type(value).__name__} as a key")
            self._number_keys += 1
            if self._number_keys > _NUMBER_KEYS:
                self._refuse(f"has more than {_NUMBER_KEYS:,} numbers as keys, expected names")
        return value

    def _refuse(self, what: str) -> NoReturn:
        raise ModelError(f"{self._context.where}: its pickle {what}; a weight file only needs arrays, {self._advice}")

    def _named(self, name: str) -> Named:
        known = plain_name(name)
        if known in self._names:
            return Named(known, self._names[known])
        if known not in (*_DICTS, *_SETS, *_CLASSES):
            self._refuse(f"asks to call {shown(name)}, which was not done")
        return Named(known)

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Named) or not isinstance(args, tuple):
            self.fail("calls what is no function")
        if function.name in (*_DICTS, *_SETS):
            return self._new_container(function.name, args)
        if function.stand_in is None:
            self._refuse(f"asks to call {shown(function.name)}, which was not done")
        return function.stand_in(args, self._context)

    def _new_container(self, name: str, args: tuple[Any, ...]) -> set[Any] | dict[Any, Any]:
        if not args or name == "collections.defaultdict":
            return set() if name in _SETS else {}
        content = args[0]
        if isinstance(content, dict) and name in _DICTS:
            self.spend(len(content))
            return {self._key(key): value for key, value in content.items()}
        if not isinstance(content, list):
            self.fail(f"makes a {name} of a {type(content).__name__}")
        self.spend(len(content))
        if name in _SETS:
            return set(map(self._key, content))
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in content):
            self.fail(f"makes a {name} of what are no pairs")
        return {self._key(key): value for key, value in content}

    def _build(self, target: Array | DType | dict[Any, Any], state: Any) -> None:
        if isinstance(target, Array):
            set_array_state(target, state, self._context)
        elif isinstance(target, DType):
            set_dtype_state(target, state, self._context)
        # Else attributes of a dictionary, such as the versions that PyTorch notes on a state dict: they hold no arrays.

    def _kept_outside(self, identifier: Any) -> Any:
        if self._persistent is None:
            self._refuse("takes an object from outside of it")
        return self._persistent(identifier)
