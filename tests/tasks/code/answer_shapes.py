"""Answers in the shapes that models give, all with a right function `add`; standard library only.

Read by evalplus_sanitiser.py, which stores EvalPlus' verdicts, and by test_sanitiser.py, which compares ours with them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types

GOOD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"
LONG = "def add(a, b):\n    total = a\n    total += b\n    return total"
LESS = "def add(a, b):\n    return a + b - 1"
PLUS = """def plus(n):
    def decorate(f):
        def inner(a, b):
            return f(a, b) + n
        return inner
    return decorate
"""
FENCED = f"```python\n{GOOD}\n```"
INDENTED = GOOD.replace("\n", "\n   ")

TAGGED = {
    f"info string {info!r}": f"Here it is:\n\n```{info}\n{GOOD}\n```\n\nIt adds."
    for info in (
        *("", "python", "Python", "PYTHON", "py", "py3", "python3", "python3.11", " python", "python ", "{.python}"),
        *('python title="add.py"', "python copy", "python {.line-numbers}", "python,linenos", "Python 3", "ipython"),
        *("sage", "python:add.py", "text", "json", "javascript", "c++", "bash", "code", "plaintext"),
    )
}
EARLIER = {
    f"earlier fence {info!r}": f"First:\n```{info}\n{text}\n```\nThen:\n{FENCED}\nDone."
    for info, text in {
        "bash": "pip install x",
        "text": "add(1, 2) -> 3",
        "json": '{"a": 1}',
        "pycon": ">>> add(1, 2)\n3",
        "output": "3",
        "diff": "- return a\n+ return a + b",
        "sh": "python3 - <<'END'\nprint(1)\nEND",
        "": "add(1, 2) == 3",
        "table": "| a | b |\n|---|---|\n| 1 | 2 |",
        "yaml": "a: 1\nb: 2\nc: 3\nd: 4",
        "sql": "SELECT a + b FROM pairs;",
        "java": "int add(int a, int b) {\n    return a + b;\n}",
        "javascript": "function add(a, b) {\n  return a + b;\n}",
        "mermaid": "graph TD\n  A --> B",
        "latex": "$a + b$",
        "python": "import math",
    }.items()
}
FENCES = {
    "tildes": f"Here:\n~~~python\n{GOOD}\n~~~\nDone.",
    "four backticks": f"````python\n{GOOD}\n````",
    "four backticks around three": f"````markdown\nThe code:\n{FENCED}\n````",
    "markdown around python": f"```markdown\nThe code:\n{FENCED}\n```",
    "indented in a list": f"1. Do\n   ```python\n   {INDENTED}\n   ```\n2. Done",
    "indented with tabs": "-\tDo\n\t```python\n\tdef add(a, b):\n\t\treturn a + b\n\t```\n",
    "code indented more than its fence": "1. Do\n```python\n    def add(a, b):\n        return a + b\n```\n",
    "fence indented, code not": f"1. Do\n   ```python\n{GOOD}\n   ```\n",
    "fence indented one blank": f" ```python\n{GOOD}\n ```",
    "indented list with a fence in the docstring": '1. Do\n   ```python\n   def add(a, b):\n       """Add.\n\n       ```\n'
    '       add(1, 2)\n       ```\n       """\n       return a + b\n   ```\n',
    "blockquote": "> Here:\n> ```python\n> def add(a, b):\n>     return a + b\n> ```\n",
    "fence in the docstring": 'Here:\n```python\ndef add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n'
    "    return a + b\n```",
    "fence with an info string in the docstring": 'Here:\n```python\ndef add(a, b):\n    """Add.\n\n    ```python\n'
    '    add(1, 2)\n    ```\n    """\n    return a + b\n```',
    "fence at line start in the docstring": 'Here:\n```python\ndef add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\n'
    '    """\n    return a + b\n```\nDone.',
    "fence in a string": 'Here:\n```python\nFENCE = """\n```\n"""\ndef add(a, b):\n    return a + b if FENCE else 0\n```',
    "fence in a comment": f"```python\n# ``` is a fence\n{GOOD}\n```",
    "unclosed fence": f"Sure.\n```python\n{GOOD}",
    "unclosed fence, then prose": f"```python\n{GOOD}\n\nThis function adds two numbers.",
    "unclosed fence of another language": f"```bash\npip install x\n\nThen:\n{FENCED}",
    "closed on the code's line": "```python\ndef add(a, b):\n    return a + b```\nDone.",
    "closed without opening": f"{GOOD}\n```\nIt adds.",
    "opened on the prose's line": f"Here it is: ```python\n{GOOD}\n```",
    "all on one line": "```python def add(a, b): return a + b```",
    "two fences in a row": f"```\n```python\n{GOOD}\n```\n```",
    "empty block first": f"```python\n```\n{FENCED}",
    "closing fence with trailing blanks": f"```python\n{GOOD}\n```   \nIt adds, doesn't it?",
    "closing fence indented": f"```python\n{GOOD}\n  ```\nIt adds.",
    "blank lines in the block": f"```python\n\n\n{GOOD}\n\n\n```",
    "inline code before": f"The function `add` uses `+`, as in ```1 + 2```:\n{FENCED}",
}
BLOCKS = {
    "stub, then full": f"```python\ndef add(a, b):\n    pass\n```\nFull:\n{FENCED}",
    "ellipsis, then full": f"```python\ndef add(a, b):\n    ...\n```\nFull:\n{FENCED}",
    "docstring only, then full": f'```python\ndef add(a, b):\n    """Add."""\n    # your code\n    # here\n```\n{FENCED}',
    "wrong draft, then longer": f"```python\n{WRONG}\n```\nBetter:\n```python\n{LONG}\n```",
    "helper in one, function in the next": "```python\ndef plus(a, b):\n    return a + b\n```\nand\n```python\n"
    "def add(a, b):\n    return plus(a, b)\n```",
    "import in one, function in the next": "```python\nimport operator\n```\nand\n```python\ndef add(a, b):\n"
    "    return operator.add(a, b)\n```",
    "constant in the next": "```python\ndef add(a, b):\n    return a + b + ZERO\n```\nwith\n```python\nZERO = 0\n```",
    "longer tests in a second": f"{FENCED}\nTests:\n```python\nassert add(1, 2) == 3\nassert add(0, 0) == 0\n"
    "assert add(5, 5) == 10\nassert add(7, 7) == 14\n```",
    "tests that import it": f"{FENCED}\nTests:\n```python\nimport unittest\nfrom add import add\n\nclass T(unittest.TestCase):"
    "\n    def test(self):\n        self.assertEqual(add(1, 2), 3)\n\nunittest.main()\n```",
    "longer example first": f"```python\nx = 1\ny = 2\nz = [x, y]\nprint(z)\nprint(x)\n```\n{FENCED}",
    "function twice": f"{FENCED}\nFull program:\n```python\n{GOOD}\n\nprint(add(int(input()), int(input())))\n```",
    "another function after": f"{FENCED}\nAlso:\n```python\ndef sub(a, b):\n    x = a\n    y = b\n    return x - y\n```",
    "explanation of parts": f"{FENCED}\nThe line\n```python\n    return a + b\n```\nadds.",
    "signature, then full": f"Signature:\n```python\ndef add(a, b):\n```\nFull:\n{FENCED}",
    "pip magic in the block": f"```python\n!pip install x\n{GOOD}\n```",
    "ellipsis lines in the block": f"```python\n...\n{GOOD}\n...\n```",
}
PROSE = {
    "program alone": GOOD,
    "program and newline": f"\n\n{GOOD}\n\n",
    "prose around": f"Sure! Here is it.\n\n{GOOD}\n\nThis adds.",
    "prose without blank lines": f"Here you go:\n{GOOD}\nThis adds a and b.",
    "prose with an apostrophe": f"Here's what I'd do:\n\n{GOOD}\n\nThat's it, isn't it?",
    "prose with an open bracket": f"Steps (see below:\n\n{GOOD}\n\nDone (really.",
    "prose with brackets around": f"Steps [first\n{GOOD}\nlast] done.",
    "prose with quotes": f'Use """ for docstrings.\n\n{GOOD}\n\nDone.',
    "prose with two docstring quotes": f'Use """ here.\n\n{GOOD}\n\nAnd """ there.',
    "numbered prose": f"1) Read a and b.\n2) Add them.\n\n{GOOD}\n\n1) Done.",
    "headings": f"# Solution\n\n## Code\n\n{GOOD}\n\n## Why\n\n* It adds.",
    "heading with a bracket": f"### Solution (Python)\n\n{GOOD}\n\n**Note**: it adds.",
    "prose that is Python": f"Sure\n{GOOD}\nDone",
    "label before": f"Python:\n\n{GOOD}\n",
    "markdown indented block": "Here is it:\n\n    def add(a, b):\n        return a + b\n\nIt adds.",
    "indented program": "    def add(a, b):\n        return a + b",
    "indented prose after": f"{GOOD}\n\n  This adds.",
    "transcript": ">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3",
    "transcript in pycon": "```pycon\n>>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n```",
    "[PYTHON]": f"[PYTHON]\n{GOOD}\n[/PYTHON]",
    "[PYTHON] on the same line": "[PYTHON]def add(a, b):\n    return a + b[/PYTHON]",
    "<code>": f"<code>\n{GOOD}\n</code>",
    "<code> on the same line": f"Here: <code>{GOOD}</code>",
    "<pre><code>": f'<pre><code class="python">{GOOD}\n</code></pre>',
    "<tool_call>": f"<tool_call>\n{GOOD}\n</tool_call>",
    "channel and message": f"<|channel|>final<|message|>{FENCED}<|return|>",
    "between dashes": f"---\nlang: python\n---\n{GOOD}",
    "<answer>": f"<answer>\n{FENCED}\n</answer>",
    "latex": f"\\begin{{code}}\n{GOOD}\n\\end{{code}}",
    "latex minted": f"\\begin{{minted}}{{python}}\n{GOOD}\n\\end{{minted}}",
    "[BEGIN] and [DONE]": f"[BEGIN]\n{GOOD}\n[DONE]",
    "END marker": f"{GOOD}\n# END",
    "end of sequence": f"{GOOD}\n</s>",
    "EOT on the same line": "def add(a, b):\n    return a + b<|endoftext|>def",
    "CRLF": f"Sure.\n{FENCED}\n".replace("\n", "\r\n"),
    "CR": f"Sure.\n{FENCED}\n".replace("\n", "\r"),
    "BOM": f"\ufeff{GOOD}",
    "BOM before a fence": f"\ufeff{FENCED}",
    "non-breaking spaces": "```python\ndef add(a, b):\n\u00a0\u00a0\u00a0\u00a0return a + b\n```",
    "zero-width space": f"```python\n\u200b{GOOD}\n```",
    "tabs": "```python\ndef add(a, b):\n\treturn a + b\n```",
    "form feed": f"import math\n\f\n{GOOD}",
    "null character after": f"{FENCED}\n\x00",
    "lone surrogate in prose": f"Sure \ud83d!\n{FENCED}",
    "unicode": f"```python\n# añadir ➕\nNAMEN = 'ä'\n{GOOD.replace('a + b', 'a + b if NAMEN else 0')}\n```",
    "thoughts with a draft": f"<think>\nMaybe\n```python\n{WRONG}\n```\nNo.\n</think>\n{FENCED}",
    "thoughts with a longer draft": f"<think>\n{LONG.replace('+=', '-=')}\nNo.\n</think>\n{FENCED}",
    "thoughts without beginning": f"Maybe\n```python\n{WRONG}\n```\nNo.\n</think>\n\n{FENCED}",
    "thoughts in brackets": f"[THINK]\n{WRONG}\n[/THINK]\n{FENCED}",
    "only in thoughts": f"<think>\n{FENCED}\n</think>\nSee above.",
    "thoughts unclosed": f"<think>\nMaybe\n{FENCED}",
    "thoughts empty": f"<think>\n\n</think>\n\n{FENCED}",
}
PROGRAMS = {
    "asserts, prints and input": f"{GOOD}\n\nassert add(1, 2) == 4\nprint(add(int(input()), 2))",
    "main guard": f"{GOOD}\n\nif __name__ == '__main__':\n    print(add(int(input()), 2))",
    "main function": f"{GOOD}\n\ndef main():\n    print(add(int(input()), 2))\n\nmain()",
    "result of input": "def add(a, b):\n    result = a + b\n    return result\n\nresult = add(int(input()), 2)",
    "loop of tests": f"{GOOD}\n\nfor a, b, c in [(1, 2, 4)]:\n    assert add(a, b) == c",
    "try around a test": f"{GOOD}\n\ntry:\n    print(add(int(input()), 1))\nexcept ValueError:\n    pass",
    "endless loop after": f"{GOOD}\n\nwhile True:\n    add(int(input()), 1)",
    "exit after": f"import sys\n{GOOD}\n\nsys.exit(add(1, 2))",
    "unittest after": f"import unittest\n{GOOD}\n\nclass T(unittest.TestCase):\n    pass\n\nunittest.main()",
    "unused import that is missing": f"import no_such_module\n{GOOD}\n\nno_such_module.main()",
    "tests imported from it": f"{GOOD}\n\nfrom your_module import add\nassert add(1, 2) == 3",
    "imports": "import operator as op\nfrom math import floor, ceil\n\ndef add(a, b):\n    return op.add(floor(a), ceil(b))",
    "star import": "from operator import *\nplus = add\n\ndef add(a, b):\n    return plus(a, b)",
    "imported under its name": "from operator import add",
    "imported as": "from operator import __add__ as add\n\nprint(add(1, 2))",
    "future import": "from __future__ import annotations\n\ndef add(a: Number, b: Number) -> Number:\n    return a + b",
    "future import after a docstring": '"""Adding."""\nfrom __future__ import annotations\n\ndef add(a: X, b: X):\n    return a + b',
    "future import after another import": "import math\nfrom __future__ import annotations\n\ndef add(a: X, b: X):\n    return a + b",
    "lambda": "add = lambda a, b: a + b\nprint(add(1, 2))",
    "annotated lambda": "from typing import Callable\n\nadd: Callable[[int, int], int] = lambda a, b: a + b\n",
    "partial": "from functools import partial\n\ndef combine(op, a, b):\n    return op(a, b)\n\n"
    "add = partial(combine, lambda a, b: a + b)",
    "alias": "def plus(a, b):\n    return a + b\n\nadd = plus\n",
    "alias of two": "def plus(a, b):\n    return a + b\n\nsum2 = add = plus\n",
    "unpacked": "add, sub = (lambda a, b: a + b), (lambda a, b: a - b)\nx = 1",
    "bound method": "class Adder:\n    def add(self, a, b):\n        return a + b\n\nadd = Adder().add\n",
    "callable object": "class Adder:\n    def __call__(self, a, b):\n        return a + b\n\nadd = Adder()\n",
    "class under its name": "class add(int):\n    def __new__(cls, a, b):\n        return a + b\n",
    "decorator": f"from functools import lru_cache\n\n@lru_cache(maxsize=None)\n{GOOD}",
    "own decorator": f"def twice(f):\n    def inner(a, b):\n        return f(f(a, b), 0)\n    return inner\n\n@twice\n{GOOD}",
    "decorator of several lines": f"from functools import lru_cache\n\n@lru_cache(\n    maxsize=None,\n)\n{GOOD}",
    "own decorator of several lines": f"{PLUS}\n@plus(\n    1\n)\n{LESS}",
    "comment after a decorator": f"{PLUS}\n@plus(1)\n# memo\n{LESS}",
    "blank line after a decorator": f"{PLUS}\n@plus(1)\n\n{LESS}",
    "two decorators": f"{PLUS}\n@plus(\n    1)\n@plus(0)\n{LESS}",
    "decorator without a name": f"@(lambda f:\n    lambda a, b: f(a, b) + 1)\n{LESS}",
    "class decorator of several lines": "from dataclasses import dataclass\n\n@dataclass(\n    order=True\n)\nclass Item:\n"
    "    value: int\n\ndef add(a, b):\n    return Item(a).value + Item(b).value",
    "mention before the program": f"@user Sure, here it is:\n\n{GOOD}",
    "decorated helper": "import functools\n\n@functools.cache\ndef plus(a, b):\n    return a + b\n\n"
    "def add(a, b):\n    return plus(a, b)",
    "decorated later": f"from functools import lru_cache\n{GOOD}\n\nadd = lru_cache(None)(add)",
    "nested function": "def add(a, b):\n    def plus(x):\n        return x + b\n    return plus(a)",
    "generator helper": "def parts(a, b):\n    yield a\n    yield b\n\ndef add(a, b):\n    return sum(parts(a, b))",
    "helper without return": "def put(values, x):\n    values.append(x)\n\ndef add(a, b):\n    values = []\n    put(values, a)\n"
    "    put(values, b)\n    return sum(values)",
    "helper defined after": "def add(a, b):\n    return plus(a, b)\n\ndef plus(a, b):\n    return a + b",
    "constants": "ZERO: int = 0\nONE = ZERO + 1\n\ndef add(a, b):\n    return a + b + ONE - 1",
    "dict filled later": "memo = {}\nmemo['zero'] = 0\n\ndef add(a, b):\n    return a + b + memo['zero']",
    "list filled later": "zeros = []\nzeros.append(0)\n\ndef add(a, b):\n    return a + b + zeros[0]",
    "table filled in a loop": "table = [9] * 100\nfor i in range(100):\n    table[i] = i\n\ndef add(a, b):\n"
    "    return table[a + b]",
    "table filled by a function": "table = {}\n\ndef fill():\n    for i in range(100):\n        table[i] = i\n\nfill()\n\n"
    "def add(a, b):\n    return table[a + b]",
    "global counter": "calls = 0\n\ndef add(a, b):\n    global calls\n    calls += 1\n    return a + b",
    "augmented constant": "ZERO = 1\nZERO -= 1\n\ndef add(a, b):\n    return a + b + ZERO",
    "attribute of the function": "def add(a, b):\n    add.calls += 1\n    return a + b\n\nadd.calls = 0",
    "attribute of a class": "class Zero:\n    value = 1\n\nZero.value = 0\n\ndef add(a, b):\n    return a + b + Zero.value",
    "with at module level": "import io\nwith io.StringIO('0') as file:\n    ZERO = int(file.read())\n\n"
    "def add(a, b):\n    return a + b + ZERO",
    "recursion limit": "import sys\nsys.setrecursionlimit(20000)\n\ndef add(a, b):\n    return b if a <= 0 else 1 + add(a - 1, b)",
    "decimal context": "from decimal import Decimal, getcontext\ngetcontext().prec = 50\n\ndef add(a, b):\n"
    "    return int(Decimal(a) + Decimal(b))",
    "if true": "if True:\n    def add(a, b):\n        return a + b\nelse:\n    add = None",
    "try import": "try:\n    from no_such_module import plus\nexcept ImportError:\n    def plus(a, b):\n        return a + b\n\n"
    "def add(a, b):\n    return plus(a, b)",
    "version check": "import sys\nif sys.version_info >= (3, 8):\n    ZERO = 0\nelse:\n    ZERO = None\n\n"
    "def add(a, b):\n    return a + b + ZERO",
    "dataclass": "from dataclasses import dataclass\n\n@dataclass\nclass Pair:\n    a: int\n    b: int\n\n"
    "def add(a, b):\n    pair = Pair(a, b)\n    return pair.a + pair.b",
    "named tuple": "from typing import NamedTuple\n\nclass Pair(NamedTuple):\n    a: int\n    b: int\n\n"
    "def add(a, b):\n    return sum(Pair(a, b))",
    "enum": "from enum import IntEnum\n\nclass E(IntEnum):\n    ZERO = 0\n\ndef add(a, b):\n    return a + b + E.ZERO",
    "class hierarchy": "class A:\n    def plus(self, a, b):\n        return a + b\n\nclass B(A):\n    pass\n\n"
    "def add(a, b):\n    return B().plus(a, b)",
    "type aliases": "from typing import List, Union\nNumber = Union[int, float]\n\ndef add(a: Number, b: Number) -> Number:\n"
    "    return a + b",
    "finally at line start": "try:\n    import no_such_module\nexcept ImportError:\n    pass\n# comment\nfinally:\n    ZERO = 0\n\n"
    "def add(a, b):\n    return a + b + ZERO",
    "own function under a builtin's name": "def sum(values):\n    return values[0] + values[1]\n\ndef add(a, b):\n"
    "    return sum([a, b])",
    "alias used before it is bound": "def add(a, b):\n    return b if not a else again(a - 1, b + 1)\n\nagain = add",
    "wrapper of its old self": f"{GOOD}\n\nold = add\n\ndef add(a, b):\n    return old(a, b)",
    "metaclass": "class Meta(type):\n    def __call__(cls, a, b):\n        return a + b\n\nclass add(metaclass=Meta):\n    pass",
    "starred constant": "zero, *rest = [0, 1, 2]\n\ndef add(a, b):\n    return a + b + zero",
    "constant of a loop": "for zero in (5, 0):\n    pass\n\ndef add(a, b):\n    return a + b + zero",
    "list sorted later": "values = [3, 0]\nvalues.sort()\n\ndef add(a, b):\n    return a + b + values[0]",
    "element deleted later": "values = [3, 0]\ndel values[0]\n\ndef add(a, b):\n    return a + b + values[0]",
    "quotes in a comment": f"# use ''' or \"\"\"\n{GOOD}",
    "quotes in a string": f"QUOTES = \"'''\"\n{GOOD}",
    "Python 2 print": f"{GOOD}\n\nprint add(1, 2)",
    "type variable": "from typing import TypeVar\nT = TypeVar('T')\n\ndef add(a: T, b: T) -> T:\n    return a + b",
    "default arguments": "ZERO = 0\n\ndef add(a, b, c=ZERO):\n    return a + b + c",
    "overloads": "from typing import overload\n\n@overload\ndef add(a: int, b: int) -> int: ...\n"
    "@overload\ndef add(a: str, b: str) -> str: ...\ndef add(a, b):\n    return a + b",
    "singledispatch": "from functools import singledispatch\n\n@singledispatch\ndef add(a, b):\n    raise TypeError\n\n"
    "@add.register\ndef _(a: int, b):\n    return a + b",
    "overriding definition": f"{WRONG}\n\n# fixed\n{GOOD}",
    "overriding helper": "def plus(a, b):\n    return a - b\n\ndef plus(a, b):\n    return a + b\n\n"
    "def add(a, b):\n    return plus(a, b)",
    "stub after": f"{GOOD}\n\ndef add(a, b):\n    pass",
    "stub before": f"def add(a, b):\n    pass\n\n{GOOD}",
    "syntax error after": f"{GOOD}\n\ndef sub(a, b:\n    return a - b",
    "syntax error before": f"def sub(a, b:\n    return a - b\n\n{GOOD}",
    "cut off after": f"{GOOD}\n\ndef sub(a, b):\n    x = [a,\n",
    "cut off in a string": f'{GOOD}\n\nTEXT = """It',
    "cut off in a docstring": f'{GOOD}\n\ndef sub(a, b):\n    """Subtract',
    "cut off in a word": f"{GOOD}\n\nassert add(1, 2) == 3\nassert add(1, 2) =",
    "cut off in a block": f"{GOOD}\n\nif __name__ == '__main__':",
    "semicolons": "import operator; plus = operator.add; x = input\ndef add(a, b): y = plus(a, b); return y",
    "one line": "def add(a, b): return a + b",
    "backslash": "def add(a, b):\n    return a \\\n        + b",
    "brackets at line start": "ZEROS = [\n0,\n0,\n]\n\ndef add(\n    a,\n    b,\n):\n    return (\n        a\n        + b + ZEROS[0]\n    )",
    "string at line start": 'TEXT = """\nimport x\ndef add(\n"""\n\ndef add(a, b):\n    return a + b if TEXT else 0',
    "comment at line start": "def add(a, b):\n# add them\n    return a + b",
    "comments": f"# Adding\n# (two numbers\n{GOOD}\n# Done)",
    "else at line start": "def add(a, b):\n    return a + b + ZERO\n\nif len('') == 0:\n    ZERO = 0\nelif len('a'):\n    ZERO = 1\n"
    "else:\n    ZERO = 2",
    "match": "def add(a, b):\n    match (a, b):\n        case (x, y):\n            return x + y",
    "walrus": "if (zero := 0) == 0:\n    pass\n\ndef add(a, b):\n    return a + b + zero",
    "comprehension": "TABLE = [[a + b for b in range(10)] for a in range(10)]\n\ndef add(a, b):\n    return a + b + TABLE[0][0]",
    "f-string": 'def add(a, b):\n    text = f"{a + b!r:>{5}}"\n    return int(text)',
    "doctest": 'def add(a, b):\n    """Add.\n\n    >>> add(1, 2)\n    3\n    """\n    return a + b\n\n'
    "import doctest\ndoctest.testmod()",
    "name as text elsewhere": f"The function add(a, b) adds; def add is its name.\n\n{FENCED}",
    "regular expression with quotes": "import re\nQUOTES = re.compile(r'[\"\\']')\n\ndef add(a, b):\n    return a + b if QUOTES else 0",
    "continues a head": 'def add(a, b):\n    """Add."""\n\n    return a + b\n```\nIt adds.',
    "continues a fence": f"Here is it:\n```python\n\n{GOOD}\n\n# Test\nprint(add(1, 2))\n```\nIt adds.",
}
SHAPES = {**TAGGED, **EARLIER, **FENCES, **BLOCKS, **PROSE, **PROGRAMS}
CHECK = "add(1, 2) == 3 and add(4, 5) == 9"
CHECKS = {"recursion limit": "add(5000, 1) == 5001", "decimal context": "add(10**40, 1) == 10**40 + 1"}


def is_right(program: str, check: str) -> bool:
    """Whether a program defines the function: `check` is an expression of it. For trusted programs only."""
    limit = sys.getrecursionlimit()
    module = sys.modules["solution"] = types.ModuleType("solution")  # where dataclasses look up their names
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sys.stdin = io.StringIO()
            exec(program, module.__dict__)
            return bool(eval(check, module.__dict__))
    except (Exception, SystemExit):
        return False
    finally:
        sys.stdin = sys.__stdin__
        sys.setrecursionlimit(limit)
