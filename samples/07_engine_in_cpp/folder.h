// Read the folder that `castline compile` wrote: which engine it has, for which TensorRT, and its plugins.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace sample {

struct EngineFolder {
    std::filesystem::path engine;
    std::string edition;                           // "tensorrt" or "tensorrt-rtx"
    std::string version;                           // of the TensorRT that built it
    std::string compute_capabilities;              // in words
    std::optional<std::filesystem::path> plugins;  // the library that computes some layers
};

// Every file that is named is there, the engine has its size, and the plugin library its SHA-256, since its
// code is going to run. `castline verify` compares all the files with their hashes.
//
// Throws Error where that is not so.
EngineFolder read_folder(std::filesystem::path const& folder);

}  // namespace sample
