#include "token_inputs.h"

namespace sample {

TokenInputs::Input::Input(Tensor const& input, int64_t elements)
    : tensor(input),
      host(Memory::Place::kHost, static_cast<size_t>(elements) * bytes_of(input.type), input.name),
      device(Memory::Place::kDevice, host.bytes(), input.name) {}

void TokenInputs::Input::put(int64_t place, int64_t value) const {
    if (tensor.type == nvinfer1::DataType::kINT64) {
        static_cast<int64_t*>(host.get())[place] = value;
    } else {
        static_cast<int32_t*>(host.get())[place] = static_cast<int32_t>(value);
    }
}

TokenInputs::TokenInputs(Signature const& signature, int64_t longest, int64_t most)
    : mask_length_(signature.fixed() ? most : 0) {
    inputs_.emplace_back(signature.ids, longest);
    if (signature.mask) {
        inputs_.emplace_back(*signature.mask, most);
    }
    if (signature.positions) {
        inputs_.emplace_back(*signature.positions, longest);
    }
    if (signature.write_index) {
        inputs_.emplace_back(*signature.write_index, 1);
    }
}

void TokenInputs::fill(std::vector<int64_t> const& tokens, int64_t past) {
    auto const count = static_cast<int64_t>(tokens.size());
    for (Input& input : inputs_) {
        if (input.tensor.name == "attention_mask") {
            int64_t const length = mask_length_ > 0 ? mask_length_ : past + count;
            input.shape = dims_of({1, length});
            for (int64_t i = 0; i < length; ++i) {
                input.put(i, i < past + count ? 1 : 0);
            }
        } else if (input.tensor.name == "write_indices") {
            input.shape = dims_of({1});
            input.put(0, past);
        } else {
            bool const ids = input.tensor.name == "input_ids";
            input.shape = dims_of({1, count});
            for (int64_t i = 0; i < count; ++i) {
                input.put(i, ids ? tokens[static_cast<size_t>(i)] : past + i);
            }
        }
    }
}

void TokenInputs::prepare(Context& context) const {
    for (Input const& input : inputs_) {
        context.shape(input.tensor.name, input.shape);
        context.address(input.tensor.name, input.device.get());
    }
}

void TokenInputs::copy(Stream const& stream) const {
    for (Input const& input : inputs_) {
        size_t bytes = bytes_of(input.tensor.type);
        for (int32_t i = 0; i < input.shape.nbDims; ++i) {
            bytes *= static_cast<size_t>(input.shape.d[i]);
        }
        check(cudaMemcpyAsync(input.device.get(), input.host.get(), bytes, cudaMemcpyHostToDevice,
                              stream.get()),
              "copying " + input.tensor.name + " to the GPU");
    }
}

}  // namespace sample
