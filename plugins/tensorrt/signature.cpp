#include "signature.h"

#include "log.h"

#include "../common/kernels.h"

namespace castline {
namespace {

constexpr int64_t kChannelMultiple = 16;  // 16 bytes, which kernels load at once, of int8 codes

std::string words_of(Element element) {
    switch (element) {
        case Element::kActivation: return "float16 or bfloat16 (one for the whole op)";
        case Element::kFloat: return "float32";
        case Element::kByte: return "int8";
        default: return "int32";
    }
}

bool fits(int64_t given, int64_t expected, bool all_known) {
    if (given == kUnknown) {
        return !all_known;
    }
    return expected == kUnknown ? given >= 1 : given == expected;
}

std::string expected_words(Tensor const& tensor, Shape const& expected) {
    std::string text = tensor.tokens ? "(batch,) tokens" : "";
    for (int64_t const size : expected) {
        text +=
            (text.empty() ? "" : ", ") + (size == kUnknown ? std::string("1 or more") : std::to_string(size));
    }
    return "[" + text + "]";
}

bool has_shape(Tensor const& tensor, Shape const& given, Shape const& expected, size_t rank, bool all_known) {
    if (given.size() != (tensor.tokens ? rank : expected.size())) {
        return false;
    }
    size_t const leading = given.size() - expected.size();
    for (size_t i = 0; i < expected.size(); ++i) {
        if (!fits(given[leading + i], expected[i], all_known)) {
            return false;
        }
    }
    return true;
}

}  // namespace

Tensor const& Signature::at(size_t position) const {
    return position < inputs.size() ? inputs[position] : outputs[position - inputs.size()];
}

size_t Signature::first_activation() const {
    size_t position = 0;
    while (at(position).element != Element::kActivation) {
        ++position;
    }
    return position;
}

bool Signature::takes(size_t position, nvinfer1::DataType type, nvinfer1::DataType activation) const {
    bool const possible = activation == nvinfer1::DataType::kHALF || activation == nvinfer1::DataType::kBF16;
    return type == type_of(at(position), activation) &&
           (at(position).element != Element::kActivation || possible);
}

nvinfer1::DataType Signature::type_of(Tensor const& tensor, nvinfer1::DataType activation) const {
    switch (tensor.element) {
        case Element::kFloat: return nvinfer1::DataType::kFLOAT;
        case Element::kByte: return nvinfer1::DataType::kINT8;
        case Element::kInteger: return nvinfer1::DataType::kINT32;
        default: return activation;
    }
}

std::string Signature::wrong_types(nvinfer1::DataType const* types, size_t count) const {
    if (count != inputs.size()) {
        return "it takes " + std::to_string(inputs.size()) + " inputs, not " + std::to_string(count);
    }
    nvinfer1::DataType const activation = types[first_activation()];
    for (size_t i = 0; i < count; ++i) {
        if (!takes(i, types[i], activation)) {
            return std::string(inputs[i].name) + " is " + castline::words_of(types[i]) + ", expected " +
                   words_of(inputs[i].element);
        }
    }
    return "";
}

std::string Signature::wrong_shapes(std::vector<Shape> const& given, bool all_known) const {
    if (given.size() != inputs.size()) {
        return "it takes " + std::to_string(inputs.size()) + " inputs, not " + std::to_string(given.size());
    }
    size_t const rank = given[0].size();
    if (rank != 2 && rank != 3) {
        return std::string(inputs[0].name) + " is " + castline::words_of(given[0]) + ", expected rank 2 or 3";
    }
    int64_t const channels = given[0].back();
    if (channels != kUnknown && channels % kChannelMultiple != 0) {
        return std::string(inputs[0].name) + " has " + std::to_string(channels) +
               " channels, expected a multiple of 16";
    }
    if (channels > most_channels) {
        return std::string(inputs[0].name) + " has " + std::to_string(channels) + " channels, expected " +
               std::to_string(most_channels) + " at most";
    }
    int64_t extras = kUnknown;
    for (size_t i = 0; i < given.size(); ++i) {
        Shape expected = inputs[i].shape;
        for (int64_t& size : expected) {
            size = size == kChannels ? channels : size == kExtras ? extras : size;
        }
        if (!has_shape(inputs[i], given[i], expected, rank, all_known)) {
            return std::string(inputs[i].name) + " is " + castline::words_of(given[i]) + ", expected " +
                   expected_words(inputs[i], expected);
        }
        extras = inputs[i].shape == Shape{kExtras} ? given[i][0] : extras;
    }
    bool const known = channels != kUnknown && extras != kUnknown;
    if (known && (extras > channels || channels + extras > CASTLINE_MOST_REASSEMBLED_CHANNELS)) {
        return std::to_string(extras) + " channels are added to " + std::to_string(channels) +
               ", expected no more than these, and " + std::to_string(CASTLINE_MOST_REASSEMBLED_CHANNELS) +
               " together at most";
    }
    return "";
}

Shape shape_of(nvinfer1::Dims const& dims) { return Shape(dims.d, dims.d + dims.nbDims); }

Shape shape_of(nvinfer1::DimsExprs const& dims) {
    Shape shape;
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        shape.push_back(dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : kUnknown);
    }
    return shape;
}

int64_t tokens_of(nvinfer1::Dims const& dims) {
    int64_t tokens = 1;
    for (int32_t i = 0; i + 1 < dims.nbDims; ++i) {
        tokens *= dims.d[i];
    }
    return tokens;
}

}  // namespace castline
