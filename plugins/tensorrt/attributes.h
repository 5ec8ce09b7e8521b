// Hold the attributes of an op: whole numbers by name, from a node or from an engine, and back.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace castline {

class Attributes {
public:
    // Reads every name from `given`, and nothing else; nothing, with the reason logged, if one is missing
    // or is not one whole number of 32 bits.
    static std::optional<Attributes> read(char const* op, std::vector<char const*> const& names,
                                          nvinfer1::PluginFieldCollection const* given);

    Attributes(Attributes const& other);
    Attributes& operator=(Attributes const&) = delete;

    int32_t operator[](char const* name) const;  // of a name that was read
    std::string words() const;                   // "k=64, n=32"
    nvinfer1::PluginFieldCollection const* fields() const { return &collection_; }

private:
    Attributes(std::vector<char const*> names, std::vector<int32_t> values);

    std::vector<char const*> names_;
    std::vector<int32_t> values_;
    std::vector<nvinfer1::PluginField> fields_;  // point into values_
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace castline
