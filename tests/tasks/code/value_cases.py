"""Pairs of programs that return the values to compare; standard library only, as EvalPlus' environment reads it too.

Each case: a name, what the reference returns, what the answer returns (expressions, or bodies of a function of `x` with
its imports before), and the problem's tolerance. `CASES` are compared with EvalPlus' stored verdicts; `DIFFERENT` are
those where ours differs on purpose, with the reason.
"""

from __future__ import annotations

NUMPY = "import numpy as np\n"
FRACTION = "from fractions import Fraction\n"
DECIMAL = "from decimal import Decimal\n"
COLLECTIONS = (
    "from collections import Counter, OrderedDict, defaultdict, deque, namedtuple\n"
    "from collections import ChainMap, UserDict, UserList, UserString\n"
)
DATES = "from datetime import date, datetime, time, timedelta, timezone\n"
EVIL = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 1
    def __len__(self): return 2
    def __iter__(self): return iter([1, 2])
"""
ALWAYS = """
class Always(BASE):
    def __eq__(self, other): return True
    def __hash__(self): return BASE.__hash__(self)
"""
DATACLASS = """from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar

@dataclass
class Point:
    x: int
    y: int = 2
    kind: ClassVar[str] = "point"
    tags: list[str] = field(default_factory=list)

    def total(self) -> int:
        return self.x + self.y
"""
ENUM = "from enum import Enum, IntEnum, StrEnum\n"

Side = tuple[str, str] | str
"""An expression, or what comes before the function and the expression."""

CASES: list[tuple[str, Side, Side, float]] = [
    # numbers
    ("int and float", "1", "1.0", 0),
    ("int and bool", "1", "True", 0),
    ("int and text", "1", "'1'", 0),
    ("float by an ulp", "0.3", "0.1 + 0.2", 0),
    ("float beyond the tolerance", "0.3", "0.30001", 0),
    ("float within a stated tolerance", "0.3", "0.30001", 1e-3),
    ("relative tolerance", "1e9", "1e9 + 50", 0),
    ("beyond the relative tolerance", "1e9", "1e9 + 500", 0),
    ("float and int, almost", "3.0000001", "3", 0),
    ("int and float, almost", "3", "3.0000001", 0),
    ("int within a stated tolerance", "100", "101", 1.5),
    ("text where there is a tolerance", "'a'", "'b'", 1e-3),
    ("infinity", "float('inf')", "float('inf')", 0),
    ("minus infinity", "float('inf')", "-float('inf')", 0),
    ("finite for infinity", "float('inf')", "1e308", 0),
    ("not a number", "float('nan')", "float('nan')", 0),
    ("the constant nan", ("import math\n", "[math.nan]"), ("import math\n", "[math.nan]"), 0),
    ("complex", "1 + 2j", "complex(1, 2)", 0),
    ("complex and float", "1.5", "1.5 + 0j", 0),
    ("complex, almost", "1 + 2j", "1 + 2.0000000001j", 1e-6),
    ("minus zero", "0.0", "-0.0", 0),
    ("huge integers", "10**400", "10**400", 0),
    ("huge integers, off by one", "10**400", "10**400 + 1", 0),
    ("huge integers where there is a tolerance", "10**400", "10**400 + 1", 1e-3),
    ("huge integer and infinity", "float('inf')", "10**400", 0),
    ("fraction and float", "0.5", (FRACTION, "Fraction(1, 2)"), 0),
    ("fraction and int", "2", (FRACTION, "Fraction(4, 2)"), 0),
    ("fractions", (FRACTION, "Fraction(1, 3)"), (FRACTION, "Fraction(2, 6)"), 0),
    ("other fractions", (FRACTION, "Fraction(1, 3)"), (FRACTION, "Fraction(1, 4)"), 0),
    ("fraction, inexact", "1 / 3", (FRACTION, "Fraction(1, 3)"), 0),
    ("list of fractions", "[0.5, 2]", (FRACTION, "[Fraction(1, 2), Fraction(2)]"), 0),
    ("list of fractions, inexact", "[0.1]", (FRACTION, "[Fraction(1, 10)]"), 0),
    ("fractions in a list, inexact", (FRACTION, "[Fraction(1, 10)]"), "[0.1]", 1e-6),
    ("decimals in a list, inexact", "[0.1]", (DECIMAL, "[Decimal('0.1')]"), 0),
    ("huge integer for a float in a list", "[0.5, 1e30]", "[0.5, 10**30]", 0),
    ("float for a huge integer in a list", "[0.5, 10**30]", "[0.5, 1e30]", 1e-6),
    ("fraction and text", "'1/2'", (FRACTION, "Fraction(1, 2)"), 0),
    ("fraction as a key", "{0.5: 1}", (FRACTION, "{Fraction(1, 2): 1}"), 0),
    ("decimal and int", "2", (DECIMAL, "Decimal('2.00')"), 0),
    ("decimal and float", "0.5", (DECIMAL, "Decimal('0.5')"), 0),
    ("decimal and float, inexact", "0.1", (DECIMAL, "Decimal('0.1')"), 0),
    ("decimals", (DECIMAL, "Decimal('1.10')"), (DECIMAL, "Decimal('1.1')"), 0),
    ("decimals, almost", (DECIMAL, "Decimal('1.1')"), (DECIMAL, "Decimal('1.1000000001')"), 1e-3),
    ("decimal that is not a number", (DECIMAL, "Decimal('NaN')"), (DECIMAL, "Decimal('NaN')"), 0),
    ("decimal and fraction", (DECIMAL, "Decimal('0.5')"), (FRACTION, "Fraction(1, 2)"), 0),
    ("decimal and text", "'1'", (DECIMAL, "Decimal('1')"), 0),
    ("decimal as a key", "{1: 2}", (DECIMAL, "{Decimal(1): 2}"), 0),
    # sequences
    ("list and tuple", "[1, 2]", "(1, 2)", 0),
    ("list and range", "[0, 1]", "range(2)", 0),
    ("ranges", "range(2)", "range(0, 2, 1)", 0),
    ("empty ranges", "range(0)", "range(3, 3)", 0),
    ("list and iterator", "[1, 2]", "iter([1, 2])", 0),
    ("generators", "(n for n in [1])", "(n for n in [1])", 0),
    ("map and list", "[1]", "map(int, [1])", 0),
    ("empty list and tuple", "[]", "()", 0),
    ("list of floats", "[0.3, 1.0]", "[0.1 + 0.2, 1.0]", 0),
    ("tuple of floats", "(0.3,)", "(0.1 + 0.2,)", 0),
    ("tuple and list of floats, inexact", "(0.3,)", "[0.1 + 0.2]", 0),
    ("list of floats and ints", "[0.3, 1]", "[0.1 + 0.2, 1]", 0),
    ("list of floats and ints, with a tolerance", "[0.3, 1]", "[0.1 + 0.2, 1]", 1e-6),
    ("shorter list of floats", "[0.3, 1.0]", "[0.3]", 0),
    ("nested floats", "[[0.3], [1.0]]", "[[0.1 + 0.2], [1.0]]", 0),
    ("nested floats, with a tolerance", "[[0.3], [1.0]]", "[[0.1 + 0.2], [1.0]]", 1e-6),
    ("tuples in lists, with a tolerance", "[(0.3, 1.0)]", "[[0.1 + 0.2, 1.0]]", 1e-6),
    ("texts and floats, with a tolerance", "[('a', 0.3)]", "[('a', 0.1 + 0.2)]", 1e-6),
    ("None for a float", "[0.3]", "[None]", 0),
    ("named tuple", "(1, 2)", (COLLECTIONS + "P = namedtuple('P', 'x y')\n", "P(1, 2)"), 0),
    (
        "named tuple of floats, inexact",
        "(0.3, 1.0)",
        (COLLECTIONS + "P = namedtuple('P', 'x y')\n", "P(0.1 + 0.2, 1.0)"),
        0,
    ),
    (
        "typed named tuple",
        "(1, 2)",
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int = 2\n", "P(1)"),
        0,
    ),
    ("deque and list", "[1, 2]", (COLLECTIONS, "deque([1, 2])"), 0),
    ("deques", (COLLECTIONS, "deque([1, 2])"), (COLLECTIONS, "deque([1, 2], maxlen=5)"), 0),
    ("array and list", "[1, 2]", ("from array import array\n", "array('i', [1, 2])"), 0),
    (
        "arrays of the standard library",
        ("from array import array\n", "array('i', [1, 2])"),
        ("from array import array\n", "array('l', [1, 2])"),
        0,
    ),
    ("bytes and bytearray", "b'ab'", "bytearray(b'ab')", 0),
    ("bytes and memoryview", "b'ab'", "memoryview(b'ab')", 0),
    ("bytes and text", "b'ab'", "'ab'", 0),
    ("text of a class of its own", "'ab'", ("class Text(str):\n    pass\n", "Text('ab')"), 0),
    ("int of a class of its own", "5", ("class Number(int):\n    pass\n", "Number(5)"), 0),
    ("float of a class of its own, inexact", "0.3", ("class Number(float):\n    pass\n", "Number(0.1 + 0.2)"), 0),
    ("list of a class of its own", "[1]", ("class Items(list):\n    pass\n", "Items([1])"), 0),
    ("list of a class of its own, inexact", "[0.3]", ("class Items(list):\n    pass\n", "Items([0.1 + 0.2])"), 0),
    ("lone surrogate", "'\\ud800'", "chr(0xd800)", 0),
    # sets and mappings
    ("sets", "{1, 2}", "{2, 1}", 0),
    ("set and frozenset", "{1, 2}", "frozenset([1, 2])", 0),
    ("sets of frozensets", "{frozenset({1, 2}), frozenset()}", "{frozenset(), frozenset({2, 1})}", 0),
    ("set and list", "{1}", "[1]", 0),
    ("sets of floats, inexact", "{0.3}", "{0.1 + 0.2}", 0),
    ("keys and set", "{1, 2}", "{1: 0, 2: 0}.keys()", 0),
    ("keys and list", "[1, 2]", "{1: 0, 2: 0}.keys()", 0),
    ("keys", "{1: 0}.keys()", "{1: 5}.keys()", 0),
    ("keys of a reference", "{1: 0}.keys()", "{1}", 0),
    ("items and set", "{('a', 1)}", "{'a': 1}.items()", 0),
    ("items and list", "[('a', 1)]", "{'a': 1}.items()", 0),
    ("items with lists", "{'a': [1]}.items()", "{'a': [1]}.items()", 0),
    ("values and list", "[1]", "{'a': 1}.values()", 0),
    ("values", "{'a': 1}.values()", "{'a': 1}.values()", 0),
    ("keys of an ordered dict", "{1}", (COLLECTIONS, "OrderedDict({1: 2}).keys()"), 0),
    ("counter and dict", "{'a': 1}", (COLLECTIONS, "Counter('a')"), 0),
    ("counter with zero and dict", "{'a': 1}", (COLLECTIONS, "Counter(a=1, b=0)"), 0),
    ("counters with zero", (COLLECTIONS, "Counter(a=1)"), (COLLECTIONS, "Counter(a=1, b=0)"), 0),
    ("counter of a reference", (COLLECTIONS, "Counter('aab')"), "{'b': 1, 'a': 2}", 0),
    ("defaultdict", "{'a': 1}", (COLLECTIONS, "defaultdict(int, a=1)"), 0),
    ("ordered dict and dict", "{'a': 1, 'b': 2}", (COLLECTIONS, "OrderedDict(b=2, a=1)"), 0),
    (
        "ordered dicts in another order",
        (COLLECTIONS, "OrderedDict(a=1, b=2)"),
        (COLLECTIONS, "OrderedDict(b=2, a=1)"),
        0,
    ),
    ("dict in another order", "{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}", 0),
    ("dict of floats, inexact", "{'a': 0.3}", "{'a': 0.1 + 0.2}", 0),
    ("list of the class UserList", "[1]", (COLLECTIONS, "UserList([1])"), 0),
    ("list of the class UserList, inexact", "[0.3]", (COLLECTIONS, "UserList([0.1 + 0.2])"), 0),
    ("tuple and UserList", "(1,)", (COLLECTIONS, "UserList([1])"), 0),
    ("dict of the class UserDict", "{'a': 1}", (COLLECTIONS, "UserDict({'a': 1})"), 0),
    ("text of the class UserString", "'a'", (COLLECTIONS, "UserString('a')"), 0),
    ("chain of dicts", "{'a': 1, 'b': 2}", (COLLECTIONS, "ChainMap({'a': 1}, {'a': 5, 'b': 2})"), 0),
    ("view of a dict", "{'a': 1}", ("import types\n", "types.MappingProxyType({'a': 1})"), 0),
    ("counter less a counter", "{'a': 1}", (COLLECTIONS, "Counter('aab') - Counter('ab')"), 0),
    ("int and float keys", "{1: 1}", "{1.0: True}", 0),
    # numpy
    ("numpy float", "0.5", (NUMPY, "np.float64(0.5)"), 0),
    ("numpy float, inexact", "0.3", (NUMPY, "np.float64(0.1) + np.float64(0.2)"), 0),
    ("numpy floats, inexact", (NUMPY, "np.float64(0.3)"), (NUMPY, "np.float64(0.1) + 0.2"), 0),
    ("float for a numpy float, inexact", (NUMPY, "np.float64(0.3)"), "0.1 + 0.2", 0),
    ("numpy float32", "0.5", (NUMPY, "np.float32(0.5)"), 0),
    ("numpy float32, inexact", "0.1", (NUMPY, "np.float32(0.1)"), 0),
    ("numpy int", "3", (NUMPY, "np.int64(3)"), 0),
    ("numpy int and float", "3.0", (NUMPY, "np.int64(3)"), 0),
    ("numpy bool", "True", (NUMPY, "np.bool_(True)"), 0),
    ("numpy bool and text", "'True'", (NUMPY, "np.bool_(True)"), 0),
    ("numpy complex", "1 + 2j", (NUMPY, "np.complex128(1 + 2j)"), 0),
    ("numpy text", "'a'", (NUMPY, "np.str_('a')"), 0),
    ("numpy nan", (NUMPY, "np.nan"), (NUMPY, "np.nan"), 0),
    ("list of numpy ints", "[1, 2]", (NUMPY, "[np.int64(1), np.int64(2)]"), 0),
    ("list of numpy ints from an array", "[1, 2]", (NUMPY, "list(np.array([1, 2]))"), 0),
    ("list of numpy floats, inexact", "[0.3]", (NUMPY, "[np.float64(0.1) + 0.2]"), 0),
    ("tuple of numpy floats", (NUMPY, "(np.float64(0.3), np.float64(1))"), "(0.1 + 0.2, 1.0)", 0),
    ("array of one", "[1]", (NUMPY, "np.array([1])"), 0),
    ("array of one, other", "[1]", (NUMPY, "np.array([2])"), 0),
    ("array for a list", "[1, 2]", (NUMPY, "np.array([1, 2])"), 0),
    ("array for a list of floats", "[0.5, 1.0]", (NUMPY, "np.array([0.5, 1.0])"), 0),
    ("list for an array", (NUMPY, "np.array([1, 2])"), "[1, 2]", 0),
    ("array without dimensions", "5", (NUMPY, "np.array(5)"), 0),
    ("empty array", "[]", (NUMPY, "np.array([])"), 0),
    ("array as a list", "[[1, 2], [3, 4]]", (NUMPY, "np.array([[1, 2], [3, 4]]).tolist()"), 0),
    ("list of arrays", "[[1, 2]]", (NUMPY, "[np.array([1, 2])]"), 0),
    ("other arrays", (NUMPY, "np.array([1, 2])"), (NUMPY, "np.array([1, 3])"), 0),
    ("matrix and array", (NUMPY, "np.matrix([[1]])"), (NUMPY, "np.array([[1]])"), 0),
    ("matrices", (NUMPY, "np.matrix([[1]])"), (NUMPY, "np.matrix([[1]])"), 0),
    ("masked arrays", (NUMPY, "np.ma.array([1])"), (NUMPY, "np.ma.array([1])"), 0),
    ("numpy date", "1", (NUMPY, "np.datetime64('2024-01-01')"), 0),
    ("tuple of numpy ints for floats", "(1.0, 2.0)", (NUMPY, "(np.int64(1), np.int64(2))"), 0),
    ("list of numpy bools", "[True, False]", (NUMPY, "[np.bool_(True), np.bool_(False)]"), 0),
    ("list of numpy texts", "['a']", (NUMPY, "list(np.array(['a']))"), 0),
    ("numpy mean", "2.0", (NUMPY, "np.mean([1, 2, 3])"), 0),
    ("numpy deviation, inexact", "0.816496580927726", (NUMPY, "np.std([1, 2, 3])"), 0),
    ("numpy key", "{1: 2}", (NUMPY, "{np.int64(1): 2}"), 0),
    ("numpy in a set", "{1, 2}", (NUMPY, "set(np.array([1, 2]))"), 0),
    # others
    ("dates", (DATES, "date(2024, 2, 29)"), (DATES, "date.fromisoformat('2024-02-29')"), 0),
    ("other dates", (DATES, "date(2024, 2, 29)"), (DATES, "date(2024, 3, 1)"), 0),
    ("date and datetime", (DATES, "date(2024, 2, 29)"), (DATES, "datetime(2024, 2, 29)"), 0),
    ("date and text", "'2024-02-29'", (DATES, "date(2024, 2, 29)"), 0),
    ("datetimes", (DATES, "datetime(2024, 1, 1, 12, 0, 0, 5)"), (DATES, "datetime(2024, 1, 1, 12, microsecond=5)"), 0),
    (
        "datetimes of two zones",
        (DATES, "datetime(2024, 1, 1, 12, tzinfo=timezone.utc)"),
        (DATES, "datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))"),
        0,
    ),
    ("time deltas", (DATES, "timedelta(days=1)"), (DATES, "timedelta(hours=24)"), 0),
    ("times", (DATES, "time(12, 30)"), (DATES, "time(12, 30, 0)"), 0),
    ("dataclass inside", "7", (DATACLASS, "Point(5).total()"), 0),
    ("dataclass and tuple", "(5, 2)", (DATACLASS, "Point(5)"), 0),
    ("dataclasses", (DATACLASS, "Point(5)"), (DATACLASS, "Point(5)"), 0),
    ("enumeration inside", "2", (ENUM + "class C(Enum):\n    A = 2\n", "C.A.value"), 0),
    ("enumeration", "2", (ENUM + "class C(Enum):\n    A = 2\n", "C.A"), 0),
    ("int enumeration", "2", (ENUM + "class C(IntEnum):\n    A = 2\n", "C.A"), 0),
    ("text enumeration", "'a'", (ENUM + "class C(StrEnum):\n    A = 'a'\n", "C.A"), 0),
    ("flags", "3", ("from enum import IntFlag\nclass F(IntFlag):\n    A = 1\n    B = 2\n", "F.A | F.B"), 0),
    ("struct_time and tuple", "(1970, 1, 1, 0, 0, 0, 3, 1, 0)", ("import time\n", "time.gmtime(0)"), 0),
    ("zip and list", "[(1, 2)]", "zip([1], [2])", 0),
    ("path and text", "'a'", ("from pathlib import Path\n", "Path('a')"), 0),
    ("a list that holds itself", "1", "(lambda items: (items.append(items), items)[1])([])", 0),
    ("an endless iterator", "[0]", ("import itertools\n", "itertools.count()"), 0),
    ("matches", ("import re\n", "re.match('a', 'ab')"), ("import re\n", "re.match('a', 'ab')"), 0),
    ("exceptions", "ValueError('a')", "ValueError('a')", 0),
    ("functions", "(lambda: 1)", "(lambda: 1)", 0),
    ("types", "int", "type(5)", 0),
    ("other types", "int", "float", 0),
    ("type and text", "'int'", "int", 0),
    ("ellipsis", "...", "Ellipsis", 0),
    ("objects", "object()", "object()", 0),
    ("None", "None", "None", 0),
    ("None and zero", "0", "None", 0),
    ("None and False", "False", "None", 0),
    ("an error", "1", "1 // 0", 0),
    ("an error for None", "None", "[][0]", 0),
    ("an exit", "1", ("import sys\n", "sys.exit(1)"), 0),
    ("a changed input", "x.append(1) or x", "(x + [1])", 0),
    ("an input that the answer changes", "[1, 2]", "x.append(2) or x", 0),
    ("an annotation", "True", ("def g(a: int):\n    pass\n", "g.__annotations__ == {'a': int}"), 0),
    (
        "a postponed annotation",
        "1",
        ("from __future__ import annotations\ndef g(a: Undefined) -> Unknown:\n    return 1\n", "g(1)"),
        0,
    ),
]

DIFFERENT: list[tuple[str, Side, Side, float, str]] = [
    ("an object equal to everything", "5", (EVIL, "Yes()"), 0, "a hostile class must not pass"),
    ("a list of them", "[5, 6]", (EVIL, "[Yes(), Yes()]"), 0, "a hostile class must not pass"),
    (
        "an int equal to everything",
        "5",
        (ALWAYS.replace("BASE", "int"), "Always(7)"),
        0,
        "a hostile class must not pass",
    ),
    (
        "a text equal to everything",
        "'a'",
        (ALWAYS.replace("BASE", "str"), "Always('b')"),
        0,
        "a hostile class must not pass",
    ),
    (
        "arrays",
        (NUMPY, "np.array([1, 2])"),
        (NUMPY, "np.array([1, 2])"),
        0,
        "EvalPlus cannot compare any array but of one",
    ),
    ("arrays, inexact", (NUMPY, "np.array([0.3, 1])"), (NUMPY, "np.array([0.1 + 0.2, 1])"), 0, "as above"),
    (
        "broadcast lists",
        "[0.3, 0.3]",
        "[[0.3], [0.3]]",
        0,
        "numpy repeats the shorter side: other shapes are other values",
    ),
    (
        "not a number in a list",
        "[float('nan')]",
        "[float('nan')]",
        0,
        "the same value; EvalPlus says so of the one object math.nan only",
    ),
    (
        "ragged floats, with a tolerance",
        "[[0.3], [1.0, 2.0]]",
        "[[0.1 + 0.2], [1.0, 2.0]]",
        1e-6,
        "the same values; numpy cannot compare rows of different lengths",
    ),
]

INPUTS = [[[1]]]
"""Of the functions, whose argument is named `x`."""


def program(side: Side) -> str:
    """The function `f` that returns a side of a case."""
    before, expression = ("", side) if isinstance(side, str) else side
    return f"{before}\ndef f(x):\n    return ({expression})\n"
