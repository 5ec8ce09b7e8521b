// Say what the fake TensorRT runs: a decoder of whole numbers, whose next token depends on every cached
// place.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fake {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr int64_t kHeads = 2;
constexpr int64_t kSize = 3;  // of a head

// An engine's file: lines of a name and a number, after the line "fake engine", up to the line "end".
struct Model {
    std::map<std::string, int64_t> numbers;

    bool read(std::string const& text);
    int64_t operator[](std::string const& name) const { return numbers.at(name); }
    bool fixed() const { return numbers.at("capacity") > 0; }
};

struct Tensor {
    std::string name;
    bool input;
    DataType type;
    Dims dims;
    std::vector<Dims> largest;  // of an input, by profile
    std::vector<Dims> smallest;
};

std::vector<Tensor> tensors_of(Model const& model);

// One run: what enqueueV3 was told.
struct Call {
    Model model;
    std::map<std::string, Dims> shapes;
    std::map<std::string, void*> addresses;

    void run() const;

private:
    int64_t integer(std::string const& name, int64_t place) const;
    double weighed(int64_t place) const;  // of a visible place, over layers, heads and channels
    void store(int64_t row, int64_t place) const;
    void keep_past() const;
    void write_logits(int64_t row, int64_t target) const;
};

}  // namespace fake
