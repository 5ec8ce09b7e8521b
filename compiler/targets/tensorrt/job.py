"""Say what the builder's process is asked to do, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """What the child is asked to do; every field is JSON."""

    model: str
    engine: str
    outcome: str  # the file that receives an Outcome
    profiles: list[dict[str, list[list[int]]]]  # input name -> its min, opt and max shape
    compute_capabilities: list[str]
    parent: int
    plugin_library: str = ""  # loaded before the model is parsed, where it has plugin nodes
    plugin_nodes: dict[str, str] = field(default_factory=dict)  # their names -> their ops
    timing_cache: str = ""  # read before and written after; "" for none
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    strip_weights: bool = False
    workspace: int | None = None  # bytes
    refit: str = ""  # a stripped engine that gets its weights back, in place of a build


@dataclass(frozen=True)
class Outcome:
    """What the child did: it built the engine where the three reasons are empty."""

    declined: str = ""  # the job asks for what this TensorRT does not have
    failed: str = ""  # the parser or the builder gave up; its log says more
    unwritable: str = ""
    version: str = ""
    peak_memory: int = 0  # bytes
    layers: dict[str, int] = field(default_factory=dict)
    plugin_layers: dict[str, int] = field(default_factory=dict)  # op -> layers of the network
