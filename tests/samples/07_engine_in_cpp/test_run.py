"""The script of the sample turns text into the program's ids, and its ids into text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SAMPLE = "07_engine_in_cpp"
# Says each token that it was given one higher, and its options on standard error.
SUCCESSORS = f"""#!{sys.executable}
import sys
options = next(i for i, word in enumerate(sys.argv) if word.startswith("--"))
for word in sys.argv[2:options]:
    print(int(word) + 1, flush=True)
print(*sys.argv[options:], file=sys.stderr)
sys.exit(3)
"""


def test_text_goes_in_and_out_and_the_exit_code_is_the_programs(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text(SUCCESSORS)
    program.chmod(0o755)
    done = run_sample(SAMPLE, program, tiny_model, "HAL", "--tokens", "5")
    assert done.stdout.replace(" ", "") == "IBM\n"  # a token of the tiny model is a letter
    assert done.stderr == "--stop 2 --tokens 5\n"  # 2 ends texts of a Llama that says nothing else
    assert done.returncode == 3


def test_says_what_is_wrong_in_a_sentence(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    for program, folder in (("program", tmp_path), (tmp_path / "absent", tiny_model)):
        done = run_sample(SAMPLE, program, folder, "HAL")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
