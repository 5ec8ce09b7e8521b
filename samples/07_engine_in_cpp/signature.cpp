#include "signature.h"

#include "error.h"

#include <map>

namespace sample {
namespace {

constexpr char const* kPast = "past_key_values.";
constexpr char const* kPresent = "present.";

using Tensors = std::map<std::string, Tensor>;

bool begins(std::string const& name, std::string const& prefix) { return name.rfind(prefix, 0) == 0; }

Tensors tensors(nvinfer1::ICudaEngine const& engine, nvinfer1::TensorIOMode mode) {
    Tensors found;
    for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
        char const* name = engine.getIOTensorName(i);
        if (engine.getTensorIOMode(name) == mode) {
            found[name] = {name, engine.getTensorDataType(name), engine.getTensorShape(name)};
        }
    }
    return found;
}

std::optional<Tensor> taken(Tensors& from, std::string const& name) {
    auto const found = from.extract(name);
    return found.empty() ? std::nullopt : std::optional<Tensor>(found.mapped());
}

class Findings {
public:
    void add(std::string const& finding) { text_ += "\n  " + finding; }

    void ranks(Tensor const& tensor, int32_t rank) {
        if (!tensor.name.empty() && tensor.dims.nbDims != rank) {
            add(tensor.name + " is " + words_of(tensor.dims) + ", expected rank " + std::to_string(rank));
        }
    }

    void integers(std::optional<Tensor> const& tensor, int32_t rank) {
        if (!tensor) {
            return;
        }
        ranks(*tensor, rank);
        if (tensor->type != nvinfer1::DataType::kINT64 && tensor->type != nvinfer1::DataType::kINT32) {
            add(tensor->name + " is not of int64 or int32");
        }
    }

    void raise() const {
        if (!text_.empty()) {
            throw Error("the engine is not a decoder with a cache as Castline compiles it:" + text_);
        }
    }

private:
    std::string text_;
};

void take_caches(Signature& signature, Tensors& inputs, Tensors& outputs, Findings& findings) {
    for (auto at = inputs.begin(); at != inputs.end();) {
        if (!begins(at->first, kPast)) {
            ++at;
            continue;
        }
        std::string const present = kPresent + at->first.substr(std::string(kPast).size());
        if (!taken(outputs, present)) {
            findings.add("there is " + at->first + ", but no output " + present);
        }
        findings.ranks(at->second, 4);
        signature.caches.push_back({at->second, present});
        at = inputs.erase(at);
    }
    if (signature.caches.empty()) {
        findings.add(std::string("it has no ") + kPast + "*: it keeps no cache to generate with");
    }
}

}  // namespace

Signature signature_of(nvinfer1::ICudaEngine const& engine) {
    Tensors inputs = tensors(engine, nvinfer1::TensorIOMode::kINPUT);
    Tensors outputs = tensors(engine, nvinfer1::TensorIOMode::kOUTPUT);
    Signature signature;
    Findings findings;
    signature.mask = taken(inputs, "attention_mask");
    signature.positions = taken(inputs, "position_ids");
    signature.write_index = taken(inputs, "write_indices");
    std::optional<Tensor> const ids = taken(inputs, "input_ids");
    std::optional<Tensor> const logits = taken(outputs, "logits");
    take_caches(signature, inputs, outputs, findings);
    if (!ids || !logits) {
        findings.add("it has no input_ids or no logits");
    }
    signature.ids = ids.value_or(Tensor{});
    signature.logits = logits.value_or(Tensor{});
    findings.integers(ids, 2);
    findings.integers(signature.mask, 2);
    findings.integers(signature.positions, 2);
    findings.integers(signature.write_index, 1);
    findings.ranks(signature.logits, 3);
    for (Tensors const* rest : {&inputs, &outputs}) {
        for (auto const& [name, tensor] : *rest) {
            findings.add(name + " " + words_of(tensor.dims) + " is not known");
        }
    }
    findings.raise();
    return signature;
}

size_t bytes_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kINT64: return 8;
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32: return 4;
        case nvinfer1::DataType::kHALF:
        case nvinfer1::DataType::kBF16: return 2;
        case nvinfer1::DataType::kINT8:
        case nvinfer1::DataType::kUINT8:
        case nvinfer1::DataType::kFP8: return 1;
        default: throw Error("the engine has an input or output of a type that this program does not know");
    }
}

nvinfer1::Dims dims_of(std::initializer_list<int64_t> sizes) {
    nvinfer1::Dims dims{};
    for (int64_t const size : sizes) {
        dims.d[dims.nbDims++] = size;
    }
    return dims;
}

std::string words_of(nvinfer1::Dims const& dims) {
    std::string text;
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        text += (i == 0 ? "" : ", ") + (dims.d[i] < 0 ? std::string("?") : std::to_string(dims.d[i]));
    }
    return "[" + text + "]";
}

}  // namespace sample
