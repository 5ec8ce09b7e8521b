"""Give each peer of accuracy.py a virtual environment of its own, made when first asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# First and alone, so that the peer takes the build that is there and brings no other.
TORCH = "torch==2.13.0"
REQUIREMENTS = {
    # requests: it imports what it does not declare.
    "ModelOpt": ("nvidia-modelopt==0.47.0", "transformers==5.23.0", "requests"),
    "llm-compressor": ("llmcompressor==0.14.0.1",),
    "NNCF": ("nncf==3.4.0", "transformers==5.23.0"),
    # Its last release: it fits no later transformers.
    "AutoAWQ": ("autoawq==0.2.9", "transformers==4.51.3"),
}


def peer_python(tool: str, folder: Path) -> Path:
    """Return the interpreter of the environment of `tool` below `folder`.

    Raises subprocess.CalledProcessError if it cannot be installed here.
    """
    place = folder / tool
    python, complete = place / "bin" / "python", place / "complete"
    if complete.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    constraints = place / "constraints.txt"
    constraints.write_text(f"{TORCH}\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for packages in ((TORCH,), REQUIREMENTS[tool]):
        subprocess.run([*pip, "--constraint", str(constraints), *packages], check=True)
    complete.touch()
    return python
