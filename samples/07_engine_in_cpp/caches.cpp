#include "caches.h"

#include "error.h"

#include <utility>

namespace sample {
namespace {

nvinfer1::Dims with_tokens(Tensor const& past, int64_t tokens) {
    int64_t const heads = past.dims.d[1];
    int64_t const size = past.dims.d[3];
    if (heads < 1 || size < 1) {
        throw Error(past.name + " is " + words_of(past.dims) + ": expected a known number and size of heads");
    }
    return dims_of({1, heads, tokens, size});
}

Memory memory_for(Tensor const& past, int64_t tokens) {
    nvinfer1::Dims const dims = with_tokens(past, tokens);
    auto const elements = static_cast<size_t>(dims.d[1] * dims.d[2] * dims.d[3]);
    return {Memory::Place::kDevice, elements * bytes_of(past.type), "the cache " + past.name};
}

}  // namespace

Caches::Caches(Signature const& signature, int64_t most)
    : pairs_(signature.caches), fixed_(signature.fixed()), most_(most) {
    for (CachePair const& pair : pairs_) {
        past_.push_back(memory_for(pair.past, most));
        if (!fixed_) {
            present_.push_back(memory_for(pair.past, most));
        }
    }
}

void Caches::prepare(Context& context, int64_t past) const {
    for (size_t i = 0; i < pairs_.size(); ++i) {
        Tensor const& tensor = pairs_[i].past;
        context.shape(tensor.name, with_tokens(tensor, fixed_ ? most_ : past));
        context.address(tensor.name, past_[i].get());
        context.address(pairs_[i].present, fixed_ ? past_[i].get() : present_[i].get());
    }
}

void Caches::advance() {
    if (!fixed_) {
        std::swap(past_, present_);
    }
}

}  // namespace sample
