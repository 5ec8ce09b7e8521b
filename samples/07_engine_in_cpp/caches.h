// Keep keys and values on the GPU from step to step.
//
// A growing cache has two buffers for each tensor: a step reads past from one and writes present, past and
// the new rows behind it, to the other; then they change places. A fixed cache has one, in which the engine
// puts the new rows in their places: past and present are the same memory.
#pragma once

#include "cuda.h"
#include "signature.h"
#include "tensorrt.h"

#include <cstdint>
#include <vector>

namespace sample {

class Caches {
public:
    // For at most `most` tokens: the capacity of a fixed cache.
    Caches(Signature const& signature, int64_t most);

    void prepare(Context& context, int64_t past) const;  // its shapes and addresses, with `past` tokens
    void advance();                                      // what was present becomes past

private:
    std::vector<CachePair> pairs_;
    bool fixed_;
    int64_t most_;
    std::vector<Memory> past_;
    std::vector<Memory> present_;  // none where the cache is fixed
};

}  // namespace sample
