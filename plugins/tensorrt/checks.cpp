#include "checks.h"

#include "log.h"

#include "../common/layout.h"

#include <string>

namespace castline {
namespace {

constexpr int32_t kDepthMultiple = 16;
constexpr int32_t kLeastBits = 2;
constexpr int32_t kMostBits = 8;

bool refused(char const* op, Attributes const& attributes, std::string const& reason) {
    log_error(std::string(op) + " (" + attributes.words() + "): " + reason);
    return false;
}

}  // namespace

bool takes_layout(char const* op, Attributes const& attributes) {
    if (attributes["layout_version"] == kLayoutVersion) {
        return true;
    }
    return refused(op, attributes,
                   "this library reads the packed layout " + std::to_string(kLayoutVersion) +
                       "; use the library that the model was compiled with, or compile the model again");
}

bool takes_product(char const* op, Attributes const& attributes) {
    if (attributes["n"] < 1 || attributes["k"] < 1) {
        return refused(op, attributes, "n and k must be 1 or more");
    }
    if (attributes["k"] % kDepthMultiple != 0) {
        return refused(op, attributes, "k must be a multiple of 16, which kernels load at once");
    }
    return true;
}

bool takes_groups(char const* op, Attributes const& attributes) {
    int32_t const group = attributes["block_size"];
    bool const power_of_two = (group & (group - 1)) == 0;
    if (group >= kHalfDepth && (power_of_two || group >= attributes["k"])) {
        return true;
    }
    return refused(op, attributes, "block_size must be 32, 64, 128 and so on, or k or more for one group");
}

bool takes_bits(char const* op, Attributes const& attributes) {
    int32_t const bits = attributes["bits"];
    return (bits >= kLeastBits && bits <= kMostBits) || refused(op, attributes, "bits must be 2 to 8");
}

}  // namespace castline
