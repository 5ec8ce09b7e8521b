#include "attributes.h"

#include "log.h"

#include <cassert>
#include <cstring>

namespace castline {
namespace {

nvinfer1::PluginField const* field_of(nvinfer1::PluginFieldCollection const& given, char const* name) {
    for (int32_t i = 0; i < given.nbFields; ++i) {
        if (std::strcmp(given.fields[i].name, name) == 0) {
            return &given.fields[i];
        }
    }
    return nullptr;
}

// The parser of TensorRT 10 gives an attribute of type INT as INT64 or INT32; other tools give either.
std::optional<int32_t> value_of(nvinfer1::PluginField const& field) {
    if (field.data == nullptr || field.length != 1) {
        return std::nullopt;
    }
    if (field.type == nvinfer1::PluginFieldType::kINT32) {
        return *static_cast<int32_t const*>(field.data);
    }
    if (field.type != nvinfer1::PluginFieldType::kINT64) {
        return std::nullopt;
    }
    int64_t const wide = *static_cast<int64_t const*>(field.data);
    auto const narrow = static_cast<int32_t>(wide);
    return narrow == wide ? std::optional<int32_t>(narrow) : std::nullopt;
}

}  // namespace

std::optional<Attributes> Attributes::read(char const* op, std::vector<char const*> const& names,
                                           nvinfer1::PluginFieldCollection const* given) {
    std::vector<int32_t> values;
    for (char const* name : names) {
        nvinfer1::PluginField const* field = given != nullptr ? field_of(*given, name) : nullptr;
        std::optional<int32_t> const value = field != nullptr ? value_of(*field) : std::nullopt;
        if (!value) {
            log_error(std::string(op) + " needs the attribute " + name + ", a whole number of 32 bits; " +
                      (field != nullptr ? "it is something else" : "it is missing"));
            return std::nullopt;
        }
        values.push_back(*value);
    }
    return Attributes(names, values);
}

Attributes::Attributes(std::vector<char const*> names, std::vector<int32_t> values)
    : names_(std::move(names)), values_(std::move(values)) {
    for (size_t i = 0; i < names_.size(); ++i) {
        fields_.emplace_back(names_[i], &values_[i], nvinfer1::PluginFieldType::kINT32, 1);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

Attributes::Attributes(Attributes const& other) : Attributes(other.names_, other.values_) {}

int32_t Attributes::operator[](char const* name) const {
    for (size_t i = 0; i < names_.size(); ++i) {
        if (std::strcmp(names_[i], name) == 0) {
            return values_[i];
        }
    }
    assert(false && "the op's own table of attributes has this name");
    return 0;
}

std::string Attributes::words() const {
    std::string text;
    for (size_t i = 0; i < names_.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::string(names_[i]) + "=" + std::to_string(values_[i]);
    }
    return text;
}

}  // namespace castline
