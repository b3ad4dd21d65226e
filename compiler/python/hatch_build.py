"""Puts the program that Cargo built into the wheel, as a script, and takes the version from Cargo.toml."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

TOP = Path(__file__).resolve().parents[2]
#: The program needs no symbol of a later glibc; `wheel` in this folder checks it.
GLIBC = (2, 34)


class Program(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict) -> None:
        program = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"), "release", "jambac")
        if not program.is_file():
            raise FileNotFoundError(f"{program}: not there; run: cargo build --release --workspace")
        build_data["shared_scripts"] = {str(program): "jambac"}
        build_data["tag"] = f"py3-none-manylinux_{GLIBC[0]}_{GLIBC[1]}_{platform.machine()}"
        build_data["pure_python"] = False


class Version(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict) -> None:
        cargo = (TOP / "Cargo.toml").read_text()
        metadata["version"] = re.search(r'^version = "(.*)"$', cargo, re.MULTILINE)[1]
