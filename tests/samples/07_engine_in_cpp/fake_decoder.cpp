// Compute the decoder of the fake TensorRT; test_program.py computes its tokens in another way.
//
//   key[layer, head, p, d]   = token[p] * (layer + 1) + 3 * head + d
//   value[layer, head, p, d] = position[p]
//   target[q] = sum over layers, heads, d and p of visible[q, p] * ((p + 1) * key + value), modulo the
//   vocabulary
#include "fake_tensorrt.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

namespace fake {
namespace {

constexpr int64_t kPeak = 5;  // the largest logit: others are lower by their distance, and below zero in part

Dims dims(std::initializer_list<int64_t> sizes) {
    Dims made{};
    for (int64_t const size : sizes) {
        made.d[made.nbDims++] = size;
    }
    return made;
}

std::string cache_name(char const* prefix, int64_t layer, bool key) {
    return prefix + std::to_string(layer) + (key ? ".key" : ".value");
}

uint16_t half_of(float number) {  // of normal numbers and NaN alone
    uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    uint32_t const sign = bits >> 16U & 0x8000U;
    if (number == 0 || std::isnan(number)) {
        return static_cast<uint16_t>(sign | (number == 0 ? 0 : 0x7E00));
    }
    return static_cast<uint16_t>(sign | ((bits >> 23U & 0xFFU) - 112U) << 10U | (bits >> 13U & 0x3FFU));
}

}  // namespace

bool Model::read(std::string const& text) {
    std::istringstream stream(text);
    std::string line;
    if (!std::getline(stream, line) || line != "fake engine") {
        return false;
    }
    for (std::string name; stream >> name && name != "end";) {
        stream >> numbers[name];
    }
    return text.size() > 4 && text.compare(text.size() - 4, 4, "end\n") == 0;
}

std::vector<Tensor> tensors_of(Model const& model) {
    DataType const integer = model["int32"] != 0 ? DataType::kINT32 : DataType::kINT64;
    std::vector<Tensor> made;
    auto const input = [&](std::string const& name, DataType type, auto const& sizes) {
        Tensor tensor{name, true, type, {}, {}, {}};
        for (int64_t profile = 0; profile < model["profiles"]; ++profile) {
            int64_t const longest = profile == 0 ? model["sequence"] : 1;
            tensor.smallest.push_back(sizes(1, model.fixed() ? model["capacity"] : 0));
            tensor.largest.push_back(sizes(longest, model.fixed() ? model["capacity"] : model["past"]));
        }
        tensor.dims = sizes(-1, model.fixed() ? model["capacity"] : -1);
        made.push_back(tensor);
    };
    input("input_ids", integer, [](int64_t s, int64_t) { return dims({1, s}); });
    input("position_ids", integer, [](int64_t s, int64_t) { return dims({1, s}); });
    input("attention_mask", integer, [&](int64_t s, int64_t past) {
        return dims({1, model.fixed() ? past : s < 0 ? -1 : past + s});
    });
    if (model.fixed()) {
        input("write_indices", integer, [](int64_t, int64_t) { return dims({1}); });
    }
    for (int64_t layer = 0; layer < model["layers"]; ++layer) {
        for (bool const key : {true, false}) {
            input(cache_name("past_key_values.", layer, key), DataType::kFLOAT,
                  [](int64_t, int64_t past) { return dims({1, kHeads, past, kSize}); });
            made.push_back({cache_name("present.", layer, key),
                            false,
                            DataType::kFLOAT,
                            dims({1, kHeads, model.fixed() ? model["capacity"] : -1, kSize}),
                            {},
                            {}});
        }
    }
    Dims const logits = dims({1, model["last"] != 0 ? 1 : -1, model["vocabulary"]});
    made.push_back({"logits", false, static_cast<DataType>(model["type"]), logits, {}, {}});
    return made;
}

void Call::run() const {
    int64_t const past = shapes.at("past_key_values.0.key").d[2];
    int64_t const rows = shapes.at("input_ids").d[1];
    int64_t const first = model.fixed() ? integer("write_indices", 0) : past;
    int64_t const places = model.fixed() ? past : past + rows;
    keep_past();
    for (int64_t row = 0; row < rows; ++row) {
        store(row, first + row);
    }
    for (int64_t row = model["last"] != 0 ? rows - 1 : 0; row < rows; ++row) {
        double sum = 0;
        for (int64_t p = 0; p < places; ++p) {
            // Times zero, and not left out: memory that was never written is NaN.
            sum += (p <= first + row ? 1.0 : 0.0) * static_cast<double>(integer("attention_mask", p)) *
                   weighed(p);
        }
        bool const number = std::isfinite(sum) && model["broken"] == 0;
        write_logits(model["last"] != 0 ? 0 : row, number ? std::llround(sum) % model["vocabulary"] : -1);
    }
}

int64_t Call::integer(std::string const& name, int64_t place) const {
    void* const memory = addresses.at(name);
    return model["int32"] != 0 ? static_cast<int32_t*>(memory)[place] : static_cast<int64_t*>(memory)[place];
}

double Call::weighed(int64_t place) const {
    double sum = 0;
    for (int64_t layer = 0; layer < model["layers"]; ++layer) {
        auto const* keys = static_cast<float*>(addresses.at(cache_name("present.", layer, true)));
        auto const* values = static_cast<float*>(addresses.at(cache_name("present.", layer, false)));
        int64_t const places = shapes.at("present.0.key").d[2];
        for (int64_t head = 0; head < kHeads; ++head) {
            for (int64_t d = 0; d < kSize; ++d) {
                int64_t const at = (head * places + place) * kSize + d;
                sum += static_cast<double>(place + 1) * keys[at] + values[at];
            }
        }
    }
    return sum;
}

void Call::keep_past() const {
    int64_t const past = shapes.at("past_key_values.0.key").d[2];
    int64_t const places = shapes.at("present.0.key").d[2];
    for (int64_t pair = 0; pair < 2 * model["layers"] && !model.fixed(); ++pair) {
        auto const* from =
            static_cast<float*>(addresses.at(cache_name("past_key_values.", pair / 2, pair % 2 == 0)));
        auto* to = static_cast<float*>(addresses.at(cache_name("present.", pair / 2, pair % 2 == 0)));
        for (int64_t head = 0; head < kHeads; ++head) {
            std::memcpy(to + head * places * kSize, from + head * past * kSize,
                        static_cast<size_t>(past * kSize) * sizeof(float));
        }
    }
}

void Call::store(int64_t row, int64_t place) const {
    int64_t const places = shapes.at("present.0.key").d[2];
    for (int64_t layer = 0; layer < model["layers"]; ++layer) {
        auto* keys = static_cast<float*>(addresses.at(cache_name("present.", layer, true)));
        auto* values = static_cast<float*>(addresses.at(cache_name("present.", layer, false)));
        for (int64_t i = 0; i < kHeads * kSize; ++i) {
            int64_t const at = (i / kSize * places + place) * kSize + i % kSize;
            int64_t const key = integer("input_ids", row) * (layer + 1) + 3 * (i / kSize) + i % kSize;
            keys[at] = static_cast<float>(key);
            values[at] = static_cast<float>(integer("position_ids", row));
        }
    }
}

void Call::write_logits(int64_t row, int64_t target) const {
    int64_t const vocabulary = model["vocabulary"];
    void* const logits = addresses.at("logits");
    for (int64_t v = 0; v < vocabulary; ++v) {
        auto const logit = target < 0 ? std::numeric_limits<float>::quiet_NaN()
                                      : static_cast<float>(kPeak - (v - target + vocabulary) % vocabulary);
        uint32_t bits = 0;
        std::memcpy(&bits, &logit, sizeof bits);
        int64_t const at = row * vocabulary + v;
        switch (static_cast<DataType>(model["type"])) {
            case DataType::kFLOAT: static_cast<float*>(logits)[at] = logit; break;
            case DataType::kHALF: static_cast<uint16_t*>(logits)[at] = half_of(logit); break;
            default: static_cast<uint16_t*>(logits)[at] = static_cast<uint16_t>(bits >> 16U);
        }
    }
}

}  // namespace fake
