#include "decoder.h"

#include "error.h"
#include "likeliest.h"

#include <algorithm>

namespace sample {

Decoder::Decoder(nvinfer1::ICudaEngine& engine, bool graph, Logger const& logger)
    : signature_(signature_of(engine)), records_(graph && signature_.fixed() && !replays_itself()) {
    choose_phases(engine, graph, logger);
    allocate();
}

Decoder::Phase Decoder::phase(nvinfer1::ICudaEngine const& engine, int32_t profile) const {
    auto const largest = [&](Tensor const& tensor, int32_t axis) {
        return engine.getProfileShape(tensor.name.c_str(), profile, nvinfer1::OptProfileSelector::kMAX)
            .d[axis];
    };
    return {profile, largest(signature_.ids, 1), largest(signature_.caches.front().past, 2), nullptr};
}

// The profile of the longest sequences reads prompts, that of the shortest decodes; one may be both.
void Decoder::choose_phases(nvinfer1::ICudaEngine& engine, bool graph, Logger const& logger) {
    prefill_ = phase(engine, 0);
    decode_ = phase(engine, 0);
    for (int32_t profile = 1; profile < engine.getNbOptimizationProfiles(); ++profile) {
        int64_t const longest = phase(engine, profile).longest;
        prefill_ = phase(engine, longest > prefill_.longest ? profile : prefill_.profile);
        decode_ = phase(engine, longest < decode_.longest ? profile : decode_.profile);
    }
    bool const replays = graph && signature_.fixed() && replays_itself();
    prefill_.context = std::make_unique<Context>(engine, prefill_.profile, false, stream_.get(), logger);
    decode_.context = std::make_unique<Context>(engine, decode_.profile, replays, stream_.get(), logger);
}

void Decoder::allocate() {
    int64_t const grown =
        std::max(prefill_.most_past + prefill_.longest, decode_.most_past + decode_.longest);
    capacity_ = signature_.fixed() ? std::min(prefill_.most_past, decode_.most_past) : grown;
    inputs_ = std::make_unique<TokenInputs>(signature_, prefill_.longest, capacity_);
    caches_ = std::make_unique<Caches>(signature_, capacity_);
    if (signature_.vocabulary() < 1) {
        throw Error("logits are " + words_of(signature_.logits.dims) + ": expected a known vocabulary");
    }
    int64_t const rows = signature_.logits.dims.d[1] < 0 ? prefill_.longest : signature_.logits.dims.d[1];
    size_t const row = static_cast<size_t>(signature_.vocabulary()) * bytes_of(signature_.logits.type);
    logits_ = std::make_unique<Memory>(Memory::Place::kDevice, static_cast<size_t>(rows) * row, "logits");
    row_ = std::make_unique<Memory>(Memory::Place::kHost, row, "logits of a token");
}

void Decoder::require_readable(std::vector<int64_t> const& prompt) const {
    auto const beyond = [&](int64_t id) { return id < 0 || id >= signature_.vocabulary(); };
    auto const wrong = std::find_if(prompt.begin(), prompt.end(), beyond);
    if (prompt.empty()) {
        throw Error("the prompt has no tokens: give token ids after OUT, or on standard input");
    }
    if (wrong != prompt.end()) {
        throw Error("the token id " + std::to_string(*wrong) + " is not of the vocabulary, which has " +
                    std::to_string(signature_.vocabulary()) + ": use the tokenizer of this folder");
    }
    // The last piece of a long prompt needs all before it in the cache.
    int64_t const grown = (prefill_.most_past / prefill_.longest + 1) * prefill_.longest;
    int64_t const most = signature_.fixed() ? capacity_ : grown;
    if (static_cast<int64_t>(prompt.size()) > most) {
        throw Error("the prompt has " + std::to_string(prompt.size()) + " tokens, and the engine reads " +
                    std::to_string(most) +
                    " at most: give a shorter one, or build the engine for a longer past");
    }
}

int64_t Decoder::prefill(std::vector<int64_t> const& prompt) {
    require_readable(prompt);
    int64_t token = 0;
    for (auto at = prompt.begin(); at != prompt.end();) {
        int64_t const count = std::min<int64_t>(prefill_.longest, prompt.end() - at);
        inputs_->fill({at, at + count}, past_);
        prepare(prefill_, count);
        run(prefill_);
        token = next(count);
        at += count;
    }
    return token;
}

bool Decoder::fits_another() const {
    return signature_.fixed() ? past_ < capacity_ : past_ <= decode_.most_past;
}

int64_t Decoder::decode(int64_t token) {
    inputs_->fill({token}, past_);
    // A fixed cache keeps shapes and addresses as they are, once a token was decoded in the plain way: what
    // TensorRT and plugins prepare for new shapes cannot be recorded.
    if (!signature_.fixed() || !ready_) {
        prepare(decode_, 1);
        run(decode_);
        ready_ = true;
    } else if (!records_) {
        run(decode_);
    } else {
        if (!graph_.recorded()) {
            graph_.record(stream_, [this] { run(decode_); });
        }
        graph_.launch(stream_);
    }
    return next(1);
}

void Decoder::prepare(Phase& phase, int64_t count) {
    Context& context = *phase.context;
    inputs_->prepare(context);
    caches_->prepare(context, past_);
    context.address(signature_.logits.name, logits_->get());
    int64_t const rows = context.shape_of(signature_.logits.name).d[1];
    if (rows != 1 && rows != count) {
        throw Error("the engine gives logits of " + std::to_string(rows) + " tokens for " +
                    std::to_string(count));
    }
    row_place_ = static_cast<size_t>(rows - 1) * row_->bytes();
}

void Decoder::run(Phase& phase) {
    inputs_->copy(stream_);
    phase.context->enqueue(stream_.get());
    check(cudaMemcpyAsync(row_->get(), static_cast<char const*>(logits_->get()) + row_place_, row_->bytes(),
                          cudaMemcpyDeviceToHost, stream_.get()),
          "copying the logits from the GPU");
}

int64_t Decoder::next(int64_t count) {
    stream_.wait();
    past_ += count;
    caches_->advance();
    return likeliest(row_->get(), signature_.logits.type, signature_.vocabulary());
}

}  // namespace sample
