#include "product.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

namespace castline {
namespace {

constexpr int32_t kMostTactics = 64;

std::vector<CastlineTactic> tactics_of(CastlineProduct const& shape, bool integer, int32_t most_tokens) {
    std::vector<CastlineTactic> tactics(kMostTactics);
    int32_t const count = castline_tactics(&shape, integer, most_tokens, tactics.data(), kMostTactics);
    assert(count >= 0 && count <= kMostTactics && "castline_tactics promised to fit");
    tactics.resize(count);
    return tactics;
}

}  // namespace

int64_t groups_of(CastlineProduct const& shape) {
    return shape.group < shape.k ? (shape.k + shape.group - 1) / shape.group : 1;
}

Scratch::~Scratch() {
    if (tickets_ != nullptr) {  // without a GPU there are none, and CUDA is better not asked
        cudaFree(tickets_);
    }
}

bool Scratch::reserve(int32_t tokens, size_t partial_bytes, size_t tickets) {
    if (tickets > ticket_count_ && !reserve_tickets(tickets)) {
        return false;
    }
    tokens_ = tokens;
    partial_bytes_ = partial_bytes;
    return true;
}

bool Scratch::reserve_tickets(size_t count) {
    cudaFree(tickets_);  // waits for kernels that still count with them
    tickets_ = nullptr;
    ticket_count_ = 0;
    size_t const bytes = count * sizeof(uint32_t);
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) != cudaSuccess) {
        return false;
    }
    tickets_ = static_cast<uint32_t*>(memory);
    if (cudaMemset(memory, 0, bytes) != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
        return false;  // a stream of TensorRT does not wait for the default one
    }
    ticket_count_ = count;
    return true;
}

Product::Product(char const* op, Attributes attributes, Signature signature, CastlineProduct shape,
                 bool integer)
    : Plugin(op, std::move(attributes), std::move(signature)), shape_(shape), integer_(integer) {}

CastlineProduct Product::shape_for(int32_t tokens, int32_t activation) const {
    CastlineProduct shape = shape_;
    shape.m = tokens;
    shape.type = activation;
    return shape;
}

int32_t Product::configurePlugin(DynamicDesc const* inputs, int32_t input_count, DynamicDesc const* outputs,
                                 int32_t output_count) noexcept {
    int32_t const status = Plugin::configurePlugin(inputs, input_count, outputs, output_count);
    if (status != 0) {
        return status;
    }
    int32_t const usual = static_cast<int32_t>(tokens_of(inputs[0].opt));
    int32_t const most = static_cast<int32_t>(tokens_of(inputs[0].max));
    tactics_ = tactics_of(shape_for(usual, activation_of(outputs[0].desc.type)), integer_, most);
    return 0;
}

bool Product::most_scratch(CastlineProduct const& shape, size_t* partial_bytes, size_t* tickets) const {
    std::vector<CastlineTactic> tactics = tactics_of(shape, integer_, shape.m);
    tactics.push_back(0);
    *partial_bytes = *tickets = 0;
    for (CastlineTactic const tactic : tactics) {
        size_t bytes = 0;
        size_t count = 0;
        if (castline_scratch(&shape, integer_, shape.m, tactic, &bytes, &count) != 0) {
            refuse(castline_last_error());
            return false;
        }
        *partial_bytes = std::max(*partial_bytes, bytes);
        *tickets = std::max(*tickets, count);
    }
    return true;
}

size_t Product::getWorkspaceSize(DynamicDesc const* inputs, int32_t, DynamicDesc const* outputs,
                                 int32_t) const noexcept {
    int32_t const most = static_cast<int32_t>(tokens_of(inputs[0].max));
    size_t bytes = 0;
    size_t tickets = 0;
    most_scratch(shape_for(most, activation_of(outputs[0].desc.type)), &bytes, &tickets);
    return bytes;
}

int32_t Product::getValidTactics(int32_t* tactics, int32_t count) noexcept {
    assert(count == getNbTactics() && "TensorRT asked for as many as there are");
    std::copy_n(tactics_.begin(), count, tactics);
    return 0;
}

int32_t Product::setTactic(int32_t tactic) noexcept {
    tactic_ = tactic;
    return 0;
}

// Tickets are allocated here and not at the launch, which may be captured into a graph. This is called
// at every step whose inputs moved: it returns at once unless there are more tokens than ever before.
int32_t Product::onShapeChange(Desc const* inputs, int32_t, Desc const* outputs, int32_t) noexcept {
    int32_t const tokens = static_cast<int32_t>(tokens_of(inputs[0].dims));
    if (scratch_.covers(tokens)) {
        return 0;
    }
    constexpr int32_t any = std::numeric_limits<int32_t>::max();  // so that tickets never move: graphs know them
    int32_t const type = activation_of(outputs[0].type);
    size_t bytes = 0;
    size_t tickets = 0;
    size_t unused = 0;
    if (!most_scratch(shape_for(any, type), &unused, &tickets) ||
        !most_scratch(shape_for(tokens, type), &bytes, &unused)) {
        return 1;
    }
    if (!scratch_.reserve(tokens, bytes, tickets)) {
        refuse("no device memory for " + std::to_string(tickets) +
               " tickets: " + cudaGetErrorString(cudaGetLastError()));
        return 1;
    }
    return 0;
}

int32_t Product::launch(Call const& call) {
    CastlineScratch const scratch = scratch_.in(call.workspace);
    return multiply(call, shape_for(call.tokens, call.activation), tactic_, scratch);
}

}  // namespace castline
