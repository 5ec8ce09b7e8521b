// Read the command line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sample {

struct Arguments {
    std::filesystem::path folder;
    std::vector<int64_t> prompt;  // token ids; empty: they come on standard input
    std::vector<int64_t> stop;    // token ids that end the answer
    int64_t tokens = 128;         // at most so many new ones
    std::string tensorrt;         // the library to open; empty: by its name, where the system looks
    bool graph = true;            // decode by a CUDA graph, where the cache is fixed
    bool help = false;
};

extern char const* const kHelp;

// Throws Error with what is expected.
Arguments read_arguments(std::vector<std::string> const& words);

// Token ids with spaces between. Throws Error where one is none.
std::vector<int64_t> token_ids(std::string const& text);

}  // namespace sample
