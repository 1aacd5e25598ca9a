"""Importing large modules in less time."""

import gc
from importlib import import_module
from types import ModuleType


def quick_import(name: str) -> ModuleType:
    """`import_module`, meanwhile without garbage collection in the whole process.

    What an import makes stays, in hundreds of thousands of objects. Looking for garbage among them,
    again and again, takes a sixth of the time. They are not looked at later either.
    """
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
