#include "folder.h"

#include "error.h"
#include "json.h"
#include "sha256.h"

#include <fstream>
#include <iterator>
#include <system_error>

namespace sample {
namespace {

namespace fs = std::filesystem;

constexpr char const* kAgain = "; compile the model again, or copy the whole folder again";

class Manifest {
public:
    explicit Manifest(fs::path const& folder) : file_(folder / "manifest.json") {
        std::ifstream stream(file_, std::ios::binary);
        std::string const text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
        if (!stream.is_open() || stream.bad()) {
            throw Error(file_.string() + " cannot be read: give the folder that `castline compile` wrote");
        }
        try {
            document_ = parse_json(text);
        } catch (Error const& error) {
            throw Error(file_.string() + ": " + error.what() + kAgain);
        }
    }

    // The value below these names; null where there is none.
    Json const* find(std::initializer_list<std::string> names) const {
        Json const* found = &document_;
        for (std::string const& name : names) {
            found = found == nullptr ? nullptr : found->find(name);
        }
        return found != nullptr && found->kind == Json::Kind::kNull ? nullptr : found;
    }

    std::string text(std::initializer_list<std::string> names) const {
        Json const* found = find(names);
        if (found == nullptr || found->kind != Json::Kind::kString) {
            fail(names, "a string");
        }
        return found->text;
    }

    uintmax_t size(std::initializer_list<std::string> names) const {
        Json const* found = find(names);
        bool const number = found != nullptr && found->kind == Json::Kind::kNumber;
        if (!number || found->text.find_first_not_of("0123456789") != std::string::npos) {
            fail(names, "a number of bytes");
        }
        return std::stoull(found->text);
    }

    [[noreturn]] void fail(std::initializer_list<std::string> names, std::string const& expected) const {
        std::string path;
        for (std::string const& name : names) {
            path += (path.empty() ? "" : ".") + name;
        }
        throw Error(file_.string() + ": " + path + ": expected " + expected + kAgain);
    }

private:
    fs::path file_;
    Json document_;
};

// A name from the manifest, which may not lead out of the folder.
fs::path inside(fs::path const& folder, std::string const& name) {
    fs::path const relative = fs::path(name).lexically_normal();
    if (relative.empty() || relative.is_absolute() || *relative.begin() == "..") {
        throw Error((folder / "manifest.json").string() + " names " + name +
                    ", which is outside of the folder" + kAgain);
    }
    return folder / relative;
}

void require_size(fs::path const& file, uintmax_t expected) {
    std::error_code status;
    uintmax_t const found = fs::file_size(file, status);
    if (status) {
        throw Error(file.string() + " cannot be read: " + status.message() + kAgain);
    }
    if (found != expected) {
        throw Error(file.string() + " has " + std::to_string(found) + " bytes, expected " +
                    std::to_string(expected) + kAgain);
    }
}

void require_hash(fs::path const& file, std::string const& expected) {
    std::string const found = sha256_of(file);
    if (found != expected) {
        throw Error(file.string() + " has the SHA-256 " + found + ", but the engine was built with " +
                    expected + ": it is another library or was damaged, and is not loaded" + kAgain);
    }
}

std::string capabilities(Manifest const& manifest) {
    Json const* listed = manifest.find({"build", "compute_capabilities"});
    if (listed == nullptr) {
        return "not told";
    }
    if (listed->text == "default") {
        return "that its builder takes by default";
    }
    std::string words;
    for (Json const& one : listed->items) {
        words += (words.empty() ? "" : ", ") + one.text;
    }
    return words;
}

}  // namespace

EngineFolder read_folder(fs::path const& folder) {
    Manifest const manifest(folder);
    if (manifest.find({"build", "engine"}) == nullptr) {
        throw Error(folder.string() +
                    " has no engine: compile the model with --target tensorrt or tensorrt-rtx");
    }
    Json const* stripped = manifest.find({"build", "weights_stripped"});
    if (stripped != nullptr && stripped->text == "true") {
        throw Error(folder.string() +
                    " has an engine without its weights: put them in, where it is to run: " +
                    "castline build " + folder.string() + " --refit -o NEW");
    }
    std::string const engine = manifest.text({"build", "engine"});
    EngineFolder read{inside(folder, engine), manifest.text({"build", "edition"}),
                      manifest.text({"build", "version"}), capabilities(manifest), std::nullopt};
    require_size(read.engine, manifest.size({"files", engine, "size"}));
    if (manifest.find({"build", "plugins"}) != nullptr) {
        read.plugins = inside(folder, manifest.text({"build", "plugins", "library"}));
        require_hash(*read.plugins, manifest.text({"build", "plugins", "sha256"}));
    }
    return read;
}

}  // namespace sample
