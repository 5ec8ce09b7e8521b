"""What Castline says no with: one class per party that can mend it.

Every message names the place (file, field or tensor), what was expected there, and what to do. The
command line prints the message alone and exits with `exit_code`; `--debug` adds the traceback.
"""

from __future__ import annotations

from typing import ClassVar


class CastlineError(Exception):
    """Something outside Castline is wrong, and the message says what to do about it."""

    exit_code: ClassVar[int] = 1


class CheckpointError(CastlineError):
    """The checkpoint cannot be found, read or trusted."""


class UnsupportedArchitectureError(CastlineError):
    """The model's architecture has no exporter."""


class RecipeError(CastlineError):
    """A recipe has a wrong field, or asks for what the model or the target cannot do."""


class TargetError(CastlineError):
    """A runtime or builder is missing, or refused the graph."""


class PluginError(TargetError):
    """The plugin library is missing, does not fit, cannot be built or loaded, or refused a call."""


class OutputError(CastlineError):
    """The output cannot be written, is in the way, or is not what it should be."""


class GateFailedError(CastlineError):
    """The result is built but too far from the original; nothing was published."""

    exit_code: ClassVar[int] = 3
