// Say which tensors an op takes and gives, and check those that it is given against it.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace castline {

enum class Element {
    kActivation,  // float16 or bfloat16, the same for all of an op
    kFloat,       // float32
    kByte,        // int8
    kInteger,     // int32
};

using Shape = std::vector<int64_t>;

constexpr int64_t kUnknown = -1;   // in a given shape: known only later
constexpr int64_t kChannels = -2;  // in an expected shape: the last size of the first input
constexpr int64_t kExtras = -3;    // in an expected shape: 1 or more, the same wherever it stands

struct Tensor {
    char const* name;
    Element element;
    Shape shape;          // of a tensor of tokens, the last size alone
    bool tokens = false;  // [tokens, last] or [batch, tokens, last], as the first input
};

inline Tensor per_token(char const* name, Element element, int64_t last) {
    return {name, element, {last}, true};
}

struct Signature {
    std::vector<Tensor> inputs;  // the first is one of tokens
    std::vector<Tensor> outputs;
    int64_t most_channels = std::numeric_limits<int64_t>::max();  // of the first input

    Tensor const& at(size_t position) const;  // inputs, then outputs
    size_t first_activation() const;          // an input, whose type is that of all activations
    nvinfer1::DataType type_of(Tensor const& tensor, nvinfer1::DataType activation) const;
    bool takes(size_t position, nvinfer1::DataType type, nvinfer1::DataType activation) const;

    // Empty, or what is wrong. Unknown sizes pass unless `all_known`: only then a size may not be missing.
    std::string wrong_types(nvinfer1::DataType const* types, size_t count) const;
    std::string wrong_shapes(std::vector<Shape> const& given, bool all_known) const;
};

Shape shape_of(nvinfer1::Dims const& dims);
Shape shape_of(nvinfer1::DimsExprs const& dims);
int64_t tokens_of(nvinfer1::Dims const& dims);  // the product of all sizes but the last

}  // namespace castline
