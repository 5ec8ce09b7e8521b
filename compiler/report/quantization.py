"""Put a quantization plan into report.json: what was decided, and what it costs."""

from __future__ import annotations

from castline.compiler.plan.decisions import (
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.report.plain import plain, plain_fields


def plan_json(plan: QuantPlan) -> dict[str, object]:
    """Return the plan in figures and words that JSON can have, without its arrays.

    SQNRs are in dB; errors are squared errors by squares of the output of what a site's `inspected`
    names, or else of its linears.
    """
    identity = plan.identity
    sites = sites_by_linear(plan)
    return {
        "checkpoint_sha256": identity.checkpoint_sha256,
        "castline_version": identity.version,
        "calibration": plain_fields(identity.calibration),
        "recipe": plain(plan.recipe),
        "linears": [
            _linear(linear, block.index, sites.get(linear.name))
            for block in plan.blocks
            for linear in block.linears
        ],
        "sites": [_site(site, block.index) for block in plan.blocks for site in block.sites],
        "corrections": [plain_fields(one) for one in plan.corrections],
        "cache_scales": [
            {"block": index, "key": _extent(cache.key), "value": _extent(cache.value)}
            for index, cache in plan.caches.items()
        ],
    }


def sites_by_linear(plan: QuantPlan) -> dict[str, PlannedSite]:
    """Return weight name -> the site that it reads."""
    return {linear: site for site in plan.sites for linear in site.linears}


def _linear(linear: PlannedLinear, block: int, site: PlannedSite | None) -> dict[str, object]:
    figures = {
        "block": block,
        "weights": _words(linear.weights),
        "activations": _words(linear.activations),
        "site": None if site is None else site.site,
        "alpha": None if site is None else site.alpha,
    }
    return {**plain_fields(linear), **figures}


def _site(site: PlannedSite, block: int) -> dict[str, object]:
    figures = {
        "site": site.site,
        "block": block,
        "kind": site.kind,
        "linears": site.linears,
        "channels": site.peaks.size,
        "peak_before": float(site.peaks.max()),
        "peak_after": float(smoothed_peaks(site).max()),
        "weight_peak_before": float(site.weight_peaks.max()),
        "weight_peak_after": float(smoothed_weight_peaks(site).max()),
        "alpha": site.alpha,
        "error": site.error,
        "error_before": site.error_before,
        "inspected": site.inspected,
        "explicit": site.explicit,
        "declined": site.declined,
        "reassembly": None if site.reassembly is None else _reassembly(site.reassembly),
    }
    return {key: plain(value) for key, value in figures.items()}


def _reassembly(reassembly: PlannedReassembly) -> dict[str, object]:
    figures = {**vars(reassembly)}
    channels = figures.pop("channels")
    counted = {"apart": channels.disassembled, "merged": len(channels.place)}
    return {key: plain(value) for key, value in {**figures, **counted}.items()}


def smoothed_peaks(site: PlannedSite) -> Array:
    """Return the peaks of what is read at `site` with its scale folded, [K]."""
    return site.peaks if site.channel_scale is None else site.peaks / site.channel_scale


def smoothed_weight_peaks(site: PlannedSite) -> Array:
    """Return the peaks of the weights that read `site` with its scale folded, [K]."""
    scale = site.channel_scale
    return site.weight_peaks if scale is None else site.weight_peaks * scale


def _words(scheme: WeightScheme | ActivationScheme | None) -> str | None:
    return None if scheme is None else str(scheme)


def _extent(scales: Array) -> dict[str, object]:
    """Return how many scales there are and between which values; there may be thousands."""
    least, most = float(scales.min()), float(scales.max())
    return {"scales": scales.size, "least": plain(least), "most": plain(most)}
