// Say in TensorRT's log what went wrong, and put tensors into words.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace castline {

void set_logger_finder(nvinfer1::ILoggerFinder* finder);
void log_error(std::string const& sentence);  // to stderr without a finder: a reason must not be lost

std::string words_of(nvinfer1::DataType type);
std::string words_of(std::vector<int64_t> const& shape);  // -1: not known yet

}  // namespace castline
