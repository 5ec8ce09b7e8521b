// Keep the inputs that say what the new tokens are: on the host to be filled, on the GPU to be read.
#pragma once

#include "cuda.h"
#include "signature.h"
#include "tensorrt.h"

#include <cstdint>
#include <vector>

namespace sample {

class TokenInputs {
public:
    // For at most `longest` new tokens, and `most` with those before them: the capacity of a fixed cache.
    TokenInputs(Signature const& signature, int64_t longest, int64_t most);

    // Of one sequence: these tokens after `past` others. What was filled in before must have been read.
    void fill(std::vector<int64_t> const& tokens, int64_t past);
    void prepare(Context& context) const;  // its shapes and addresses
    void copy(Stream const& stream) const;

private:
    struct Input {
        Input(Tensor const& tensor, int64_t elements);
        void put(int64_t place, int64_t value) const;

        Tensor tensor;
        Memory host;
        Memory device;
        nvinfer1::Dims shape{};
    };

    std::vector<Input> inputs_;
    int64_t mask_length_;  // where the cache is fixed, whose mask always has all its places; 0: it grows
};

}  // namespace sample
