// Read JSON (RFC 8259): as much of it as a manifest needs, and nothing that is not JSON.
#pragma once

#include <string>
#include <vector>

namespace sample {

struct Json {
    enum class Kind { kNull, kBoolean, kNumber, kString, kArray, kObject };

    Kind kind = Kind::kNull;
    std::string text;                // of a string, its characters in UTF-8; of other scalars, as written
    std::vector<std::string> names;  // of an object's members, in the order of items
    std::vector<Json> items;         // of an array or an object

    // Null where this is no object, or has no such member.
    Json const* find(std::string const& name) const;
};

// Throws Error with the line, where it is no JSON.
Json parse_json(std::string const& text);

}  // namespace sample
