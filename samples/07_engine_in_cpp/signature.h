// Read from an engine which inputs and outputs it has, and make sure that they are those of a decoder.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sample {

struct Tensor {
    std::string name;
    nvinfer1::DataType type{};
    nvinfer1::Dims dims{};  // -1: open
};

// Keys or values of a layer: past [batch, heads, past, size], present [batch, heads, total, size]. Where the
// cache is fixed, both are [batch, heads, capacity, size].
struct CachePair {
    Tensor past;
    std::string present;
};

struct Signature {
    Tensor ids;                         // [batch, sequence]
    std::optional<Tensor> mask;         // [batch, total], of a fixed cache [batch, capacity]
    std::optional<Tensor> positions;    // [batch, sequence]
    std::optional<Tensor> write_index;  // [batch]: a fixed cache, and where in it new tokens go
    std::vector<CachePair> caches;
    Tensor logits;  // [batch, sequence or 1, vocabulary]

    bool fixed() const { return write_index.has_value(); }
    int64_t vocabulary() const { return logits.dims.d[2]; }
};

// Throws Error with all that is missing and all that is not a decoder's.
Signature signature_of(nvinfer1::ICudaEngine const& engine);

size_t bytes_of(nvinfer1::DataType type);  // of one element
nvinfer1::Dims dims_of(std::initializer_list<int64_t> sizes);
std::string words_of(nvinfer1::Dims const& dims);  // such as "[1, 5]"

}  // namespace sample
