"""Say of an engine what its manifest keeps, and what its user should know."""

from __future__ import annotations

from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.build import EngineFacts
from castline.compiler.targets.tensorrt.engine_profiles import accepted
from castline.compiler.targets.tensorrt.plugin_library import (
    FOLDER,
    layers_in_words,
    library_facts,
)
from castline.plugins.library import Library


def engine_facts(
    facts: EngineFacts, options: TargetOptions, plugins: Library | None, device: str | None
) -> dict[str, object]:
    """Return what the manifest says of an engine, under "build"; it holds no times.

    `device` is the compute capability of the GPU that it was built on and for; None where it was
    built for what `options` say.
    """
    capabilities = list(facts.compute_capabilities) or ([device] if device else "default")
    return {
        "engine": facts.path.name,
        "edition": facts.edition.name,
        "version": facts.tensorrt_version,
        "compute_capabilities": capabilities,
        "version_compatible": options.engine.version_compatible,
        "hardware_compatibility": options.engine.hardware_compatibility,
        "weights_stripped": options.engine.strip_weights,
        "profiles": [dict(profile) for profile in facts.profiles],
        "weights_kept_low_bit": facts.weights_kept_low_bit,
        "plugins": library_facts(plugins, facts.plugin_layers),
        "kv_cache": options.kv_cache,
        "logits": options.logits,
    }


def engine_notes(facts: EngineFacts) -> tuple[str, ...]:
    """Return a sentence for each thing that whoever runs the engine should know."""
    kept = {
        True: "stay low-bit",
        False: "were expanded",
        None: "have no low-bit part, or too small a one to tell",
    }
    weights = kept[facts.weights_kept_low_bit]
    if facts.stripped:
        weights = "were left out: castline build OUT --refit puts them in, on a machine with a GPU"
    plugins = layers_in_words(facts.plugin_layers)
    capabilities = ", ".join(facts.compute_capabilities) or facts.edition.default_capabilities
    return (
        f"engine: weights {weights}, "
        f"built in {facts.seconds:.0f} s with {facts.peak_memory_bytes / 1e9:.1f} GB",
        f"engine: takes {accepted(facts.profiles)}; for compute capability {capabilities}",
        *([f"engine: plugins compute {plugins}; their library is in {FOLDER}/"] if plugins else []),
        *facts.remarks,
    )
