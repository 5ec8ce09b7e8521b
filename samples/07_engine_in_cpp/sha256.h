// Compute the SHA-256 of a file (FIPS 180-4), to know a library before its code runs.
#pragma once

#include <filesystem>
#include <string>

namespace sample {

// In hexadecimal. Throws Error where the file cannot be read.
std::string sha256_of(std::filesystem::path const& file);

}  // namespace sample
