"""What an import brings, and what the package contains."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import jambac_runtime


def test_an_import_brings_little() -> None:
    code = "import sys, jambac_runtime; print(sorted({'asyncio', 'numpy', 'inspect', 'dataclasses'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_all_names_are_there() -> None:
    for name in jambac_runtime.__all__:
        assert getattr(jambac_runtime, name).__doc__, name
    assert set(jambac_runtime.__all__) <= set(dir(jambac_runtime))


def test_the_wheel_needs_nothing() -> None:
    assert [need for need in importlib.metadata.requires("jambac-runtime") or [] if "extra ==" not in need] == []
    folder = Path(jambac_runtime.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_native.pyi").exists()
    assert not (folder / "tests").exists()


def test_the_stubs_name_what_the_module_has() -> None:
    import ast

    from jambac_runtime import _native

    stubs = ast.parse((Path(jambac_runtime.__file__).parent / "_native.pyi").read_text())
    for item in stubs.body:
        if isinstance(item, ast.FunctionDef):
            assert callable(getattr(_native, item.name))
        if isinstance(item, ast.ClassDef):
            native = getattr(_native, item.name)
            named = {method.name for method in item.body if isinstance(method, ast.FunctionDef)} - {"__new__"}
            has = {name for name in vars(native) if not name.startswith("__")}
            assert item.name == "EngineError" or named == has
