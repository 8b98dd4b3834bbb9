"""The statements of a program that one of its functions needs: nothing else of an answer is run."""

from __future__ import annotations

import ast
import builtins
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from cycleqd_merge.tasks.code.runs import Statement

_SETTINGS = {
    *("filterwarnings", "getcontext", "seed", "set_int_max_str_digits", "setcontext", "seterr", "setrecursionlimit"),
    *("simplefilter", "stack_size"),
}
"""Functions by which a program configures Python or a library."""
_TALKS = {"breakpoint", "exec", "exit", "input", "print", "quit"}
"""Functions that a demonstration or a main program calls; nothing that a function needs depends on them."""
_ROUNDS = 10  # of looking for definitions in other runs


def needed(runs: Sequence[Sequence[Statement]], main: int, name: str) -> list[str]:
    """The sources of the statements that the function `name` needs, in an order in which they can be run.

    These are its definitions in run `main`; the definitions that it refers to, directly or indirectly; statements that
    change what they define; settings such as `sys.setrecursionlimit`; and imports, except unused ones outside the
    standard library. What the run does not define is taken from the other runs, nearest first.
    """
    others = [(number, place) for number in _by_distance(len(runs), main) for place in range(len(runs[number]))]
    lent: dict[str, tuple[int, int]] = {}
    for number, place in others:
        for bound in runs[number][place].binds:
            lent.setdefault(bound, (number, place))
    borrowed: set[tuple[int, int]] = set()
    known = {bound for statement in runs[main] for bound in statement.binds} | set(dir(builtins))
    for _ in range(_ROUNDS):
        program = [*(runs[number][place] for number, place in sorted(borrowed)), *runs[main]]
        kept, reached = _reach(program, name)
        more = {lent[missing] for missing in reached - known if missing in lent} - borrowed
        if not more:
            break
        borrowed |= more
    chosen = [statement for place, statement in enumerate(program) if place in kept]
    return [statement.source for statement in sorted(chosen, key=lambda statement: not _is_future(statement))]


def _by_distance(runs: int, main: int) -> list[int]:
    """The other runs' numbers: those before `main` from the nearest on, then those after it."""
    return [*range(main - 1, -1, -1), *range(main + 1, runs)]


def _reach(program: Sequence[Statement], name: str) -> tuple[set[int], set[str]]:
    """The places of the statements that `name` needs, and the names that these refer to."""
    real = {bound for statement in program if not is_weak(statement) for bound in statement.binds}
    imports = {bound for statement in program if _is_import(statement) for bound in statement.binds}
    effects = {
        statement.tree.name: set(_changed_inside(statement.tree)) & statement.uses
        for statement in program
        if isinstance(statement.tree, ast.FunctionDef | ast.AsyncFunctionDef) and statement.tree.name != name
    }
    affecting: defaultdict[str, list[int]] = defaultdict(list)
    kept, queue = set[int](), [name]
    for place, statement in enumerate(program):
        if _is_main_guard(statement.tree) or (is_weak(statement) and statement.binds <= real):
            continue
        changed = set(_changed(statement, name, effects)) - imports
        for affected in statement.binds | changed:
            affecting[affected].append(place)
        if _is_setting(statement) or (_is_import(statement) and _is_standard(statement)):
            kept.add(place)
            queue.extend(statement.uses)
    reached = set(queue)
    while queue:
        for place in affecting[queue.pop()]:
            if place not in kept or not program[place].uses <= reached:
                kept.add(place)
                queue.extend(program[place].uses - reached)
                reached |= program[place].uses
    return kept, reached


def is_weak(statement: Statement) -> bool:
    """Whether any other definition is better: a plain function that never returns, or an import of unknown code."""
    if _is_import(statement):
        return not _is_standard(statement)
    returns = ast.Return | ast.Yield | ast.YieldFrom
    tree = statement.tree
    is_plain = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and not tree.decorator_list
    return is_plain and not any(isinstance(node, returns) for node in ast.walk(tree))


def _changed(statement: Statement, name: str, effects: dict[str, set[str]]) -> Iterator[str]:
    """The names whose values a statement changes when it is executed, without binding them."""
    tree = statement.tree
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from _roots(tree.decorator_list)  # as in `@add.register`
        return
    parts = list(ast.walk(tree))
    called = {part.func.id for part in parts if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)}
    if called & (_TALKS | {name}) or any(isinstance(part, ast.Assert) for part in parts):
        return
    yield from _changed_inside(tree)
    for function in called & effects.keys():
        yield from effects[function]


def _changed_inside(tree: ast.AST) -> Iterator[str]:
    """The names whose parts a tree assigns, whose methods it calls, or that it declares global."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield from _roots([node])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield from _roots([node.func])
        elif isinstance(node, ast.Global):
            yield from node.names


def _roots(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names `a` of expressions such as `a.b[0].c` and `a.b()`."""
    for node in nodes:
        inner = node
        while isinstance(inner, ast.Attribute | ast.Subscript | ast.Call):
            inner = inner.func if isinstance(inner, ast.Call) else inner.value
        if isinstance(inner, ast.Name) and inner is not node:
            yield inner.id


def _is_setting(statement: Statement) -> bool:
    """Whether a statement configures Python or a library: a call such as `sys.setrecursionlimit(10**6)`."""
    tree = statement.tree
    if not isinstance(tree, ast.Expr | ast.Assign):
        return False
    target = tree.targets[0] if isinstance(tree, ast.Assign) else tree.value
    if isinstance(target, ast.Attribute):  # getcontext().prec = 50
        target = target.value
    if not isinstance(target, ast.Call):
        return False
    function = target.func
    named = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return named in _SETTINGS


def _is_main_guard(tree: ast.stmt) -> bool:
    return isinstance(tree, ast.If) and any(getattr(node, "id", "") == "__name__" for node in ast.walk(tree.test))


def _is_import(statement: Statement) -> bool:
    return isinstance(statement.tree, ast.Import | ast.ImportFrom)


def _is_future(statement: Statement) -> bool:
    return isinstance(statement.tree, ast.ImportFrom) and statement.tree.module == "__future__"


def _is_standard(statement: Statement) -> bool:
    """Whether everything that a statement imports is of the standard library; `import *` counts as needed, too."""
    tree = statement.tree
    if isinstance(tree, ast.Import):
        modules = [alias.name for alias in tree.names]
    else:
        assert isinstance(tree, ast.ImportFrom)
        if tree.names[0].name == "*":
            return True
        modules = [tree.module or ""]
    return all(module.split(".")[0] in sys.stdlib_module_names for module in modules)
