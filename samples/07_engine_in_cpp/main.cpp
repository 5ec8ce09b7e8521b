// Generate from an engine that `castline compile` built: token ids in, token ids out, by the likeliest each
// time.
#include "arguments.h"
#include "cuda.h"
#include "decoder.h"
#include "error.h"
#include "folder.h"
#include "tensorrt.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <iomanip>
#include <iostream>
#include <iterator>

namespace sample {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
}

void print(int64_t token) {
    std::cout << token << std::endl;  // as they come
    if (!std::cout) {
        throw Error("token ids cannot be written to standard output");
    }
}

void print_speed(size_t prompt, double prefill, int64_t tokens, double decode) {
    std::cerr << std::fixed << std::setprecision(1) << "tokens: " << tokens << " after a prompt of " << prompt
              << "; prefill " << static_cast<double>(prompt) / prefill << " tokens/s";
    if (tokens > 1) {
        std::cerr << ", decode " << static_cast<double>(tokens - 1) / decode << " tokens/s";
    }
    std::cerr << "\n";
}

void generate(Decoder& decoder, std::vector<int64_t> const& prompt, Arguments const& arguments) {
    Clock::time_point const began = Clock::now();
    int64_t token = decoder.prefill(prompt);
    double const prefill = seconds_since(began);
    Clock::time_point const decoding = Clock::now();
    int64_t count = 0;
    while (count < arguments.tokens) {
        if (std::find(arguments.stop.begin(), arguments.stop.end(), token) != arguments.stop.end()) {
            break;
        }
        print(token);
        ++count;
        if (count == arguments.tokens) {
            break;
        }
        if (!decoder.fits_another()) {
            std::cerr << "the cache is full\n";
            break;
        }
        token = decoder.decode(token);
    }
    print_speed(prompt.size(), prefill, count, seconds_since(decoding));
}

void run(Arguments const& arguments) {
    EngineFolder const folder = read_folder(arguments.folder);
    if (folder.edition != kEdition) {
        throw Error(folder.engine.string() + " is an engine of " + folder.edition +
                    ", and this program is compiled " + "for " + kEdition +
                    ": compile it with -DTENSORRT_ROOT set to the SDK of " + folder.edition);
    }
    std::string const gpu = require_gpu();
    std::vector<int64_t> prompt = arguments.prompt;
    if (prompt.empty()) {
        prompt = token_ids({std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()});
    }
    TensorRT tensorrt(arguments.tensorrt);
    if (folder.plugins) {
        tensorrt.load_plugins(*folder.plugins);
    }
    auto const engine = tensorrt.load(folder, gpu);
    Decoder decoder(*engine, arguments.graph, tensorrt.logger());
    generate(decoder, prompt, arguments);
}

}  // namespace
}  // namespace sample

int main(int count, char** words) {
    try {
        sample::Arguments const arguments = sample::read_arguments({words + 1, words + count});
        if (arguments.help) {
            std::cout << sample::kHelp;
            return 0;
        }
        sample::run(arguments);
        return 0;
    } catch (std::exception const& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
