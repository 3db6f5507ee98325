"""Installs the programs that building and checking images needs, on Debian and Ubuntu.

    python3 tools/install_tools.py [--builds]

Takes nothing but Python's standard library; asks for root by sudo where it lacks it. With --builds only
what a build needs, without what boots and compares images.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

TABLE = Path(__file__).resolve().parents[1] / "components" / "jewelhouse" / "images" / "tools.py"


def main() -> None:
    table = load()
    wanted = [tool for tool in table.TOOLS if tool.builds or "--builds" not in sys.argv[1:]]
    packages = sorted({tool.package for tool in wanted if table.path(tool.name) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"this is neither Debian nor Ubuntu; install by hand: {', '.join(packages)}")
    root = [] if os.geteuid() == 0 else ["sudo"]
    if root and shutil.which("sudo") is None:
        sys.exit(f"run as root: apt-get install {' '.join(packages)}")
    print(f"Installing {', '.join(packages)} …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [*root, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    for command in ([*root, "apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed with {done.returncode}")
    missing = [tool.name for tool in wanted if table.path(tool.name) is None]
    if missing:
        sys.exit(f"installed, but not to be found: {', '.join(missing)}")


def load():
    """The table of tools by its file: the package around it needs what is not installed yet."""
    spec = importlib.util.spec_from_file_location("jewelhouse_image_tools", TABLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
