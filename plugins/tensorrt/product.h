// What the two kinds of products share: tactics, workspace, tickets.
#pragma once

#include "plugin.h"

namespace castline {

// Scratch memory of one execution context: a copy begins with none, since contexts run at the same time.
class Scratch {
public:
    Scratch() = default;
    Scratch(Scratch const&) {}
    Scratch& operator=(Scratch const&) = delete;
    ~Scratch();

    bool covers(int32_t tokens) const { return tokens <= tokens_; }
    // From now on for up to `tokens`; tickets are allocated and zeroed, but for those that are there.
    // False: CUDA refused.
    bool reserve(int32_t tokens, size_t partial_bytes, size_t tickets);
    CastlineScratch in(void* workspace) const { return {workspace, partial_bytes_, tickets_, ticket_count_}; }

private:
    bool reserve_tickets(size_t count);

    int32_t tokens_ = 0;
    size_t partial_bytes_ = 0;  // of TensorRT's workspace
    uint32_t* tickets_ = nullptr;
    size_t ticket_count_ = 0;
};

int64_t groups_of(CastlineProduct const& shape);  // of scales, along k

class Product : public Plugin {
public:
    int32_t configurePlugin(DynamicDesc const* inputs, int32_t input_count, DynamicDesc const* outputs,
                            int32_t output_count) noexcept final;
    size_t getWorkspaceSize(DynamicDesc const* inputs, int32_t input_count, DynamicDesc const* outputs,
                            int32_t output_count) const noexcept final;
    int32_t getNbTactics() noexcept final { return static_cast<int32_t>(tactics_.size()); }
    int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept final;
    int32_t setTactic(int32_t tactic) noexcept final;
    int32_t onShapeChange(Desc const* inputs, int32_t input_count, Desc const* outputs,
                          int32_t output_count) noexcept final;

protected:
    // `shape` without m and type, which the tensors tell.
    Product(char const* op, Attributes attributes, Signature signature, CastlineProduct shape, bool integer);

    int32_t launch(Call const& call) final;
    virtual int32_t multiply(Call const& call, CastlineProduct const& shape, CastlineTactic tactic,
                             CastlineScratch const& scratch) = 0;

private:
    CastlineProduct shape_for(int32_t tokens, int32_t activation) const;
    // What any tactic needs at any number of tokens up to shape.m; false: nobody knows, and the log says why.
    bool most_scratch(CastlineProduct const& shape, size_t* partial_bytes, size_t* tickets) const;

    CastlineProduct shape_;
    bool integer_;
    std::vector<CastlineTactic> tactics_;
    CastlineTactic tactic_ = 0;
    Scratch scratch_;
};

}  // namespace castline
