#include "log.h"

#include <atomic>
#include <cstdio>

namespace castline {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

void log_error(std::string const& sentence) {
    std::string const line = "castline: " + sentence;
    nvinfer1::ILoggerFinder* finder = logger_finder;
    nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger == nullptr) {
        std::fprintf(stderr, "%s\n", line.c_str());
        return;
    }
    logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
}

std::string words_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return "float32";
        case nvinfer1::DataType::kHALF: return "float16";
        case nvinfer1::DataType::kBF16: return "bfloat16";
        case nvinfer1::DataType::kINT8: return "int8";
        case nvinfer1::DataType::kINT32: return "int32";
        case nvinfer1::DataType::kINT64: return "int64";
        default: return "data type " + std::to_string(static_cast<int32_t>(type));
    }
}

std::string words_of(std::vector<int64_t> const& shape) {
    std::string text;
    for (int64_t const size : shape) {
        text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("?") : std::to_string(size));
    }
    return "[" + text + "]";
}

}  // namespace castline
