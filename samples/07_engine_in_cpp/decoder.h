// Read a prompt and decode after it: an engine, its caches, and a context for each of the two phases.
#pragma once

#include "caches.h"
#include "cuda.h"
#include "signature.h"
#include "tensorrt.h"
#include "token_inputs.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace sample {

class Decoder {
public:
    // With `graph`, tokens of a fixed cache are decoded by a CUDA graph; shapes of a growing one change at
    // every step, so no graph fits two of them. The engine and the logger outlive the decoder.
    Decoder(nvinfer1::ICudaEngine& engine, bool graph, Logger const& logger);

    // The likeliest token after a prompt, which may be longer than what the engine reads at a time. Throws
    // Error where an id is not of the vocabulary, or the prompt is longer than the cache.
    int64_t prefill(std::vector<int64_t> const& prompt);

    // The likeliest token after `token`, which must fit.
    int64_t decode(int64_t token);
    bool fits_another() const;

private:
    struct Phase {
        int32_t profile;
        int64_t longest;    // new tokens at a time
        int64_t most_past;  // tokens in the cache before them; of a fixed cache, its capacity
        std::unique_ptr<Context> context;
    };

    Phase phase(nvinfer1::ICudaEngine const& engine, int32_t profile) const;
    void choose_phases(nvinfer1::ICudaEngine& engine, bool graph, Logger const& logger);
    void allocate();
    void require_readable(std::vector<int64_t> const& prompt) const;
    void prepare(Phase& phase, int64_t count);
    void run(Phase& phase);
    int64_t next(int64_t count);

    Signature signature_;
    Stream stream_;
    Phase prefill_{};
    Phase decode_{};
    std::unique_ptr<TokenInputs> inputs_;
    std::unique_ptr<Caches> caches_;
    std::unique_ptr<Memory> logits_;  // of every token of a piece, or of the last
    std::unique_ptr<Memory> row_;     // the last token's logits, on the host
    size_t row_place_ = 0;            // where they begin in logits_, in bytes
    int64_t capacity_ = 0;            // of the caches, in tokens
    int64_t past_ = 0;
    bool records_;        // decode by a CUDA graph of ours
    bool ready_ = false;  // one token was decoded in the plain way
    Graph graph_;
};

}  // namespace sample
