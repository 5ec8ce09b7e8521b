// Say in a sentence what is wrong, where, and what to do: the one kind of error of this program.
#pragma once

#include <stdexcept>

namespace sample {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace sample
