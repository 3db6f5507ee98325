"""Makes .venv with everything the project pins; standard library only, run by any Python >= 3.11.

A stamp written last says what was installed, so a second run does nothing and a broken or half-finished one
is done again.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
STAMP = VENV / "jewelhouse.stamp"
FILES = (
    "requirements.txt",
    "requirements-evidence.txt",
    "requirements-guest.txt",
    "requirements-images.txt",
    "requirements-sandbox.txt",
    "requirements-dev.txt",
    "pyproject.toml",
)


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."
        )
    if STAMP.is_file() and STAMP.read_text() == wanted() and works():
        return
    python = VENV / "bin" / "python"
    if not python.is_file() or subprocess.run([python, "-c", "import pip"], capture_output=True).returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        step("Making .venv", [sys.executable, "-m", "venv", str(VENV)])
    STAMP.unlink(missing_ok=True)
    step(
        "Installing Python packages (some minutes the first time: the cloud SDKs are large)",
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            "requirements-dev.txt",
        ],
    )
    if not works():
        sys.exit(".venv was made, but jewelhouse cannot be imported from it; remove .venv and run again")
    STAMP.write_text(wanted())


def wanted() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in FILES:
        digest.update((PROJECT / name).read_bytes())
    return digest.hexdigest()


def works() -> bool:
    probe = "import jewelhouse, pulumi, pydantic, typer, pytest"
    return (
        subprocess.run([VENV / "bin" / "python", "-c", probe], capture_output=True, cwd="/").returncode == 0
    )


def step(text: str, command: list[str]) -> None:
    print(f"{text} …", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=PROJECT)
    if done.returncode:
        sys.exit(
            f"{' '.join(command[:4])} failed; nothing is half-installed for good: run again after mending it"
        )
    print(f"  done in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing: is this a whole checkout?")
