// Find the likeliest token in a row of logits as the engine wrote it, without converting the row.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

namespace sample {

// The position of the largest of `count` logits, the first of equals. Throws Error where one is no number, or
// their type is neither float32, float16 nor bfloat16.
int64_t likeliest(void const* logits, nvinfer1::DataType type, int64_t count);

}  // namespace sample
