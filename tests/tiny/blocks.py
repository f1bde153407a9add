"""Python code of pages and notebooks without running it: what it imports and calls must be there."""

import ast
import inspect
from importlib import import_module

import kfjax

#: Methods of a loaded model, told by their names alone.
METHODS = {"generate": kfjax.pipeline.Model.generate, "stream": kfjax.pipeline.Model.stream}


def check(code: str, names: dict) -> None:
    """Imports of kfjax find what they name, attributes of what is imported exist, calls have arguments that fit.

    Args:
      names: what earlier blocks of the same page have imported; this one's imports are added.
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "kfjax":
                    names[alias.asname or "kfjax"] = import_module(alias.name if alias.asname else "kfjax")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kfjax":
            for alias in node.names:
                names[alias.asname or alias.name] = _member(import_module(node.module), alias.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                names.pop(getattr(target, "id", None), None)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _known(node, names)
        elif isinstance(node, ast.Call):
            _fits(node, names)


def _member(module, name: str):
    return getattr(module, name) if hasattr(module, name) else import_module(f"{module.__name__}.{name}")


def _known(node: ast.expr, names: dict):
    """What an expression stands for; None where only running it would tell."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _known(node.value, names)
        return _member(owner, node.attr) if inspect.ismodule(owner) else None
    return None


def _fits(call: ast.Call, names: dict) -> None:
    called = _known(call.func, names)
    if called is None and isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        called = METHODS[call.func.attr].__get__(object())
    unknown = [x for x in call.args if isinstance(x, ast.Starred)] + [k for k in call.keywords if k.arg is None]
    if called is not None and not unknown:
        inspect.signature(called).bind(*call.args, **{k.arg: k.value for k in call.keywords})
