#include "arguments.h"

#include "error.h"

#include <charconv>
#include <sstream>

namespace sample {
namespace {

// As much of token_ids' reading as one word: a whole number of 0 or more.
int64_t whole_number(std::string const& word, std::string const& what) {
    int64_t number = -1;
    char const* const end = word.data() + word.size();
    auto const [stopped, status] = std::from_chars(word.data(), end, number);
    if (status != std::errc{} || stopped != end || number < 0) {
        throw Error(what + " is \"" + word + "\": expected a whole number of 0 or more");
    }
    return number;
}

}  // namespace

char const* const kHelp = R"(usage: engine_in_cpp OUT [ID ...] [options]

Continue a prompt by the engine in OUT, a folder that `castline compile` wrote: the likeliest token each
time. The prompt is the token IDs given, or those on standard input. New ids go to standard output, one a
line, as they come; the speed goes to standard error.

  --tokens N        stop after so many new tokens at the latest (128)
  --stop ID         stop before this token; may be given several times
  --tensorrt FILE   the TensorRT library, where the system does not find it by its name
  --no-graph        decode without a CUDA graph
  --help            show this
)";

Arguments read_arguments(std::vector<std::string> const& words) {
    Arguments read;
    for (size_t i = 0; i < words.size(); ++i) {
        std::string const& word = words[i];
        auto const next = [&]() -> std::string const& {
            if (i + 1 >= words.size()) {
                throw Error(word + " needs a value; see --help");
            }
            return words[++i];
        };
        if (word == "--help") {
            read.help = true;
        } else if (word == "--tokens") {
            read.tokens = whole_number(next(), word);
        } else if (word == "--stop") {
            read.stop.push_back(whole_number(next(), word));
        } else if (word == "--tensorrt") {
            read.tensorrt = next();
        } else if (word == "--no-graph") {
            read.graph = false;
        } else if (word.rfind("--", 0) == 0) {
            throw Error("there is no option " + word + "; see --help");
        } else if (read.folder.empty()) {
            read.folder = word;
        } else {
            read.prompt.push_back(whole_number(word, "a token id"));
        }
    }
    if (read.folder.empty() && !read.help) {
        throw Error("the folder OUT is missing; see --help");
    }
    return read;
}

std::vector<int64_t> token_ids(std::string const& text) {
    std::istringstream stream(text);
    std::vector<int64_t> ids;
    for (std::string word; stream >> word;) {
        ids.push_back(whole_number(word, "a token id on standard input"));
    }
    return ids;
}

}  // namespace sample
