"""jambac compiles AI21's Jamba models ahead of time into one plan file. This package is the program.

    import subprocess, jambac
    subprocess.run([jambac.program(), "build", "FOLDER", "-o", "jamba.plan"], check=True)

The package `jambac-runtime` runs plans.
"""

from __future__ import annotations

import os
import sys
import sysconfig

__all__ = ["program"]


def program() -> str:
    """The path of the program.

    Raises FileNotFoundError if the package's script was moved or removed.
    """
    schemes = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", f"{os.name}_user")]
    # `pip install --target DIR` puts scripts into DIR/bin.
    schemes.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bin"))
    for folder in schemes:
        path = os.path.join(folder, "jambac")
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"the program jambac is in none of {', '.join(schemes)}: pip install --force-reinstall jambac")


def main() -> None:
    """Runs the program in the place of this process."""
    path = program()
    os.execv(path, [path, *sys.argv[1:]])
