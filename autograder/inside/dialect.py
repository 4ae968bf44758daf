"""Triton kernels as plain data, and kernels made of that again: the part of Python that is Triton, and nothing else.

The interpreter runs a kernel as Python. What is checked here can reach numbers, blocks, pointers and Triton's own functions,
but no module, file or object of Python's, whatever its text says.
"""

import ast
import builtins
import inspect
import json
import linecache
import textwrap
from functools import cache
from itertools import count
from types import ModuleType

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

BUILTINS = frozenset(
    ("abs", "bool", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "print", "range", "tuple", "zip")
)
MODULES = {"triton": triton, "triton.language": tl, "triton.language.math": tl.math}
_STATEMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.Expr, ast.Return, ast.Pass, ast.Assert)
_EXPRESSIONS = (
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Name, ast.Constant, ast.Attribute),
    *(ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.IfExp, ast.Starred, ast.JoinedStr, ast.FormattedValue),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context, ast.arguments, ast.arg),
)
_VALUES = (tl.tensor, tl.dtype, tl.pointer_type, tl.block_type, tl.constexpr)
_PARTS = frozenset(name for kind in _VALUES for name in dir(kind)) | {
    "dtype",
    "element_ty",
    "numel",
    "scalar",
    "shape",
    "type",
    "value",
}
_numbers = count()


class NotTriton(TypeError):
    """A kernel uses what is no part of Triton."""


@cache
def plain(kernel: InterpretedFunction) -> list[dict]:
    """A kernel and the functions that it calls, as plain data.

    Args:
        kernel: what `triton.jit` has made.

    Returns:
        Of each function its "source" and its "names", the globals that it uses: numbers, texts, or one of {"module": name},
        {"tl": name}, {"function": position}.

    Raises:
        NotTriton: it uses something else.
    """
    found, functions = [kernel], []
    for function in found:  # grows
        tree = _parsed(function.fn)
        names = {}
        for name in sorted(_free(tree)):
            if name in function.fn.__globals__:
                value = function.fn.__globals__[name]
                if isinstance(value, InterpretedFunction) and not value.fn.__module__.startswith("triton."):
                    found += [] if value in found else [value]
                    names[name] = {"function": found.index(value)}
                elif not (name in BUILTINS and value is getattr(builtins, name)):
                    names[name] = _plain(name, value)
        functions.append({"source": ast.unparse(tree), "names": names})
    for function in functions:
        _check(ast.parse(function["source"]).body[0], function["names"])
    return functions


def made(functions: list[dict]) -> InterpretedFunction:
    """The kernel that plain data describe.

    Args:
        functions: as `plain` gives them, or anything that student code has made up.

    Returns:
        The kernel.

    Raises:
        NotTriton: it uses what is no part of Triton.
    """
    return _made(json.dumps(functions, sort_keys=True))


@cache
def _made(text: str) -> InterpretedFunction:
    kernels, spaces, functions = [], [], json.loads(text)
    for function in functions:
        [tree] = ast.parse(function["source"]).body
        _check(tree, function["names"])
        file = f"<kernel {next(_numbers)}>"
        lines = ast.unparse(tree).splitlines(keepends=True)
        linecache.cache[file] = sum(map(len, lines)), None, lines, file  # where the interpreter looks for it
        spaces.append({"__name__": file, "tl": tl})  # for annotations
        exec(compile("".join(lines), file, "exec"), spaces[-1])
        kernels.append(InterpretedFunction(spaces[-1][tree.name]))
    for function, space in zip(functions, spaces, strict=True):
        for name, value in function["names"].items():
            match value:
                case {"function": position}:
                    space[name] = kernels[position]
                case {"module": module}:
                    space[name] = MODULES[module]
                case {"tl": member}:
                    space[name] = _member(tl, member)
                case _:
                    space[name] = value
    return kernels[0]


def plain_value(name: str, value):
    """A kernel's argument that is no tensor, or a global: a number, a text, None, or a member of Triton's language."""
    value = value.value if isinstance(value, tl.constexpr) else value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(plain_value(name, entry) for entry in value)
    if member := next((known for known in _members() if getattr(tl, known) is value), ""):
        return {"tl": member}
    if isinstance(value, bool | int | float) or hasattr(value, "__index__"):
        return float(value) if isinstance(value, float) else int(value)
    raise NotTriton(f"a kernel is given {name}, which is of type {type(value).__name__}: a number, a tensor or a dtype can be")


def value_of(plain):
    """What `plain_value` was made of."""
    if isinstance(plain, tuple):
        return tuple(map(value_of, plain))
    return _member(tl, plain["tl"]) if isinstance(plain, dict) else plain


def _plain(name: str, value):
    if isinstance(value, ModuleType):
        if module := next((known for known, module in MODULES.items() if module is value), ""):
            return {"module": module}
        raise NotTriton(f"a kernel uses {name}, which is no part of Triton")
    return plain_value(name, value)


@cache
def _members() -> tuple[str, ...]:
    return tuple(name for name in dir(tl) if _is_member(getattr(tl, name)) and not name.startswith("_"))


def _is_member(value) -> bool:
    kinds = (InterpretedFunction, tl.dtype)
    is_class = isinstance(value, type) and value.__module__.startswith("triton.language")
    return isinstance(value, kinds) or is_class or getattr(value, "__triton_builtin__", False) is True


def _member(module: ModuleType, name: str):
    value = getattr(module, name, None)
    known = {triton: ("cdiv", "next_power_of_2", "language"), tl: ("math",)}.get(module, ())
    if not (name in known or _is_member(value)) or name.startswith("_"):
        raise NotTriton(f"a kernel uses {name}, which is no part of Triton")
    return value


def _parsed(function) -> ast.FunctionDef:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise NotTriton(f"the source of the kernel {function.__name__} is not known") from error
    if not isinstance(tree, ast.FunctionDef):
        raise NotTriton("a kernel is a function, defined by `def`")
    tree.decorator_list, tree.returns = [], None
    tree.args.defaults = [ast.Constant(plain_value("a default", value)) for value in function.__defaults__ or ()]
    for argument in _arguments(tree):
        is_constant = argument.annotation is not None and "constexpr" in ast.unparse(argument.annotation)
        argument.annotation = ast.parse("tl.constexpr", mode="eval").body if is_constant else None
    if tree.body and ast.get_docstring(tree) is not None:
        tree.body[0] = ast.Pass()
    return tree


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant))


def _arguments(tree: ast.FunctionDef) -> list[ast.arg]:
    return [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]


def _free(tree: ast.FunctionDef) -> set[str]:
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {a.arg for a in _arguments(tree)}
    return {node.id for node in names} - bound


def _check(tree: ast.AST, names: dict) -> None:
    """Raise NotTriton unless a function is made of Triton alone."""
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list or tree.returns or tree.args.vararg or tree.args.kwarg:
        raise NotTriton("a kernel is a function of named arguments")
    defaults = [default for default in (*tree.args.defaults, *tree.args.kw_defaults) if default is not None]
    annotations = [argument.annotation for argument in _arguments(tree) if argument.annotation]
    if not all(map(_is_literal, defaults)) or {*map(ast.unparse, annotations)} - {"tl.constexpr"}:
        raise NotTriton("a kernel's defaults are constants")  # what stands there is worked out outside of the function
    modules = {
        name: MODULES.get(value["module"]) for name, value in names.items() if isinstance(value, dict) and "module" in value
    }
    modules["tl"] = modules.get("tl", tl)
    for node in ast.walk(tree):
        if node is not tree and not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            raise NotTriton(
                f"a kernel has {type(node).__name__} in line {getattr(node, 'lineno', 0)}, which Triton does not compile"
            )
        if isinstance(node, ast.Attribute):
            module = _module(node.value, modules)
            if module:
                _member(module, node.attr)
            elif node.attr.startswith("_") or node.attr not in _PARTS:
                raise NotTriton(f"a kernel uses .{node.attr}, which Triton's values do not have")
    unknown = {name for name in _free(tree) if name not in names and name not in BUILTINS and name != "tl"}
    hidden = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id.startswith("__")}
    if unknown | hidden:
        raise NotTriton(f"a kernel uses {min(unknown | hidden)}, which is no argument, no kernel and no constant")
    if odd := [name for name in names if not name.isidentifier() or name.startswith("__")]:
        raise NotTriton(f"a kernel uses {odd[0]!r}, which is no name")


def _module(node: ast.expr, modules: dict) -> ModuleType | None:
    """The module that an expression stands for, if it is one."""
    if isinstance(node, ast.Name):
        return modules.get(node.id)
    if isinstance(node, ast.Attribute) and node.attr in ("math", "language"):
        outer = _module(node.value, modules)
        return {("math", tl): tl.math, ("language", triton): tl}.get((node.attr, outer))
    return None
