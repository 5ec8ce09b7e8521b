// Say why a call of the library failed: each reason is kept for castline_last_error().
#pragma once

namespace castline {

// Keeps the reason, written as by printf, for this thread, and returns 1.
[[gnu::format(printf, 1, 2)]] int fail(const char* format, ...);

}  // namespace castline
