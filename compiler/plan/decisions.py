"""Say what search decided, block by block: the quantization plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme


@dataclass(frozen=True)
class PlannedLinear:
    """How one linear, or the stack of an expert layer's linears, is quantized."""

    name: str
    """Name of its weight in the checkpoint."""

    weights: WeightScheme | None
    """None: the weights stay in float."""

    activations: ActivationScheme | None
    """None: what it reads stays in float."""

    parameters: QuantParameters | None
    """Of the activations, where their scheme is static."""

    kept: str | None
    """Why it stays in float, wholly or in part, as the end of a sentence; None if nothing does."""

    weight_sqnr: float | None
    """Signal-to-quantization-noise ratio of the weights, in dB; None where they stay in float."""

    output_sqnr: float | None
    """The same of its output on the calibration text, when it alone is quantized."""

    peak_before: float
    """Largest absolute value it reads on the calibration text."""

    peak_after: float
    """The same once the scales are folded."""

    clipped: float | None = None
    """Share of its scales whose range search narrowed; None: no range was searched."""

    unreached: tuple[int, ...] = ()
    """Experts of the stack that no token of the calibration text reached: rounded to nearest."""


@dataclass(frozen=True, eq=False)
class PlannedReassembly:
    """How the channels of a value, its scale folded, are taken apart and merged before linears."""

    channels: ChannelMap
    linears: tuple[str, ...]
    """Names of the weights that read the places in its stead; others, such as a router's, read the
    value itself."""

    threshold: float
    """What no disassembled channel exceeds on the calibration text."""

    metric: str
    """By which distance channels were merged: "merge-error" or "signed-sums"."""

    error: float
    """Squared error of the outputs of the module in `inspected`, by their square, all quantized."""

    error_before: float
    """The same with all channels as they are."""

    inspected: str | None
    """Path of the module whose output the error is of; None: of the linears themselves."""


@dataclass(frozen=True)
class PlannedCorrection:
    """What the correction of a window of blocks learned; the blocks of a window share one."""

    first: int
    """Index of the window's first block."""
    blocks: int
    loss_before: float
    """Squared error of the hidden states that leave the window, quantized and uncorrected: that of
    each token by its own square, and the mean of all tokens of the calibration text."""
    loss_learned: float
    """The same with the low-rank matrices beside the quantized weights."""
    loss_merged: float
    """The same once they are merged into the weights, and these quantized."""
    epochs: int
    """How many were gone through; fewer than asked for where the loss diverged."""
    merged: bool
    """Whether the codes are those of the merged weights; else merging made it worse."""


@dataclass(frozen=True, eq=False)
class PlannedSite:
    """A value that linears read, and the scale folded at it."""

    site: str
    """Name of the value in the float graph, as the fold planner names it."""

    kind: str
    """What takes the scale up, as the fold planner says it; "" where nothing could."""

    linears: tuple[str, ...]
    """Names of the weights that read it."""

    peaks: Array
    """float32 [K]: largest absolute value of each channel on the calibration text, not folded."""

    weight_peaks: Array
    """float32 [K]: largest absolute weight of each channel over all its linears, not folded."""

    scale: Array | None
    """float64 [scales], folded into the site: 1 everywhere is no scale; None: nothing is folded."""

    channel_scale: Array | None
    """float64 [K], or [experts, K] where each expert's value has its own: the scale of each channel
    of the value; None: nothing is folded."""

    alpha: float | None
    """The exponent that made the scale, SmoothQuant's or AWQ's; None: nothing is folded."""

    declined: str | None
    """Why no scale is folded here, as the end of a sentence; None where one is."""

    error: float | None
    """Squared error of the outputs of its linears, or of the module in `inspected`, by their
    square, with the scale; None: not measured."""

    error_before: float | None
    """The same without the scale."""

    inspected: str | None = None
    """Path of the module whose output the error is of; None: of the linears themselves."""

    explicit: bool = False
    """Whether the value is divided by a node of its own: nothing can take the scale up."""

    reassembly: PlannedReassembly | None = None
    """None: its channels stay as they are."""


@dataclass(frozen=True, eq=False)
class PlannedCache:
    """The scales of one layer's cached keys and values."""

    key: Array
    """float32 [1], or [heads, head size] where each channel has its own; above zero."""
    value: Array


@dataclass(frozen=True, eq=False)
class PlannedBlock:
    """What was decided for one decoder or encoder block."""

    index: int
    name: str
    """Path of the block in the model, such as "model.layers.0"."""
    linears: tuple[PlannedLinear, ...]
    sites: tuple[PlannedSite, ...]
    cache: PlannedCache | None
    codes: Mapping[str, GivenCodes] = field(default_factory=dict)
    """Name of a weight -> the codes that search chose, where it did not leave them to rounding."""
    correction: PlannedCorrection | None = None
    """None: nothing was learned."""


@dataclass(frozen=True)
class CalibrationFacts:
    """Which text the numbers come from."""

    source: str
    """As the user named it, or "shipped"."""
    sha256: str
    samples: int
    length: int
    """Tokens of a sample."""
    seed: int
    chat_template: bool


@dataclass(frozen=True)
class PlanIdentity:
    """What a plan depends on: with all of it the same, the plan is the same."""

    checkpoint_sha256: str
    searched: Mapping[str, object]
    """What of the recipe the search reads."""
    calibration: CalibrationFacts
    version: str
    """Of Castline."""


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """Every decision for a model."""

    identity: PlanIdentity
    recipe: Mapping[str, object]
    """The whole recipe that it was made by."""
    blocks: tuple[PlannedBlock, ...]

    @cached_property
    def linears(self) -> dict[str, PlannedLinear]:
        """Name of the weight -> how its linear is quantized."""
        return {linear.name: linear for block in self.blocks for linear in block.linears}

    @property
    def sites(self) -> tuple[PlannedSite, ...]:
        return tuple(site for block in self.blocks for site in block.sites)

    @property
    def codes(self) -> dict[str, GivenCodes]:
        """Name of the weight -> the codes that search chose."""
        return {name: codes for block in self.blocks for name, codes in block.codes.items()}

    @property
    def corrections(self) -> tuple[PlannedCorrection, ...]:
        """What each window of blocks learned, in order."""
        found = (block.correction for block in self.blocks)
        return tuple({one.first: one for one in found if one is not None}.values())

    @property
    def caches(self) -> dict[int, PlannedCache]:
        """Index of the block -> the scales of its cache, where there are any."""
        return {block.index: block.cache for block in self.blocks if block.cache is not None}
