// Keep the reason of the last failure, and say what this library was built for.
#include "errors.h"

#include <cstdarg>
#include <cstdio>

#include "kernels.h"
#include "layout.h"

namespace castline {
namespace {

constexpr int kLongestReason = 1024;
thread_local char last_reason[kLongestReason] = "";

static_assert(kLayoutVersion == 1, "castline_build_info says which layout this library reads");

}  // namespace

int fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(last_reason, sizeof(last_reason), format, arguments);
    va_end(arguments);
    return 1;
}

}  // namespace castline

// CASTLINE_ARCHITECTURES is set by CMake, as in "80 86 90a"; without it there is no device code.
const char* castline_build_info(void) {
#if defined(CASTLINE_ARCHITECTURES)
    return "{\"layout_version\": 1, \"architectures\": \"" CASTLINE_ARCHITECTURES "\", \"emulated\": false}";
#else
    return "{\"layout_version\": 1, \"architectures\": \"\", \"emulated\": true}";
#endif
}

const char* castline_last_error(void) { return castline::last_reason; }
