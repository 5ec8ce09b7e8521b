"""Give the program in C++ a text: turn it into token ids, and what comes back into text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from castline.cli.answer import text_pieces
from castline.cli.chat import speaker
from castline.errors import CastlineError


def main(program: Path, output: Path, prompt: str, *options: str) -> int:
    """Print the answer as it comes; return the exit code of the program, which tells its speed."""
    speaking = speaker(output)
    tokens = speaking.tokens(prompt, raw=False)
    stops = [word for token in sorted(speaking.stop) for word in ("--stop", str(token))]
    command = [str(program), str(output), *map(str, tokens), *stops, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None, "it was asked for"
        for piece in text_pieces(speaking.tokenizer, map(int, running.stdout)):
            print(piece, end="", flush=True)
    print()
    return running.returncode


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} PROGRAM OUT PROMPT [OPTION ...]")
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
    except (CastlineError, OSError) as error:
        sys.exit(f"error: {error}")
