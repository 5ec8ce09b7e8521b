#include "json.h"

#include "error.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace sample {
namespace {

constexpr int kDeepest = 64;  // a manifest has 6; deeper ones could exhaust the stack

class Reader {
public:
    explicit Reader(std::string const& text) : text_(text) {}

    Json document() {
        Json const read = value(0);
        skip_spaces();
        if (at_ != text_.size()) {
            fail("nothing more after the document");
        }
        return read;
    }

private:
    [[noreturn]] void fail(std::string const& expected) const {
        auto const end = text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size()));
        auto const line = 1 + std::count(text_.begin(), end, '\n');
        throw Error("line " + std::to_string(line) + ": expected " + expected);
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void skip_spaces() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

    bool take(char wanted) {
        skip_spaces();
        if (peek() != wanted) {
            return false;
        }
        ++at_;
        return true;
    }

    void expect(char wanted) {
        if (!take(wanted)) {
            fail(std::string("'") + wanted + "'");
        }
    }

    Json value(int depth) {
        if (depth > kDeepest) {
            fail("at most " + std::to_string(kDeepest) + " levels");
        }
        skip_spaces();
        switch (peek()) {
            case '{': return object(depth);
            case '[': return array(depth);
            case '"': return {Json::Kind::kString, string(), {}, {}};
            case 't': return word("true", Json::Kind::kBoolean);
            case 'f': return word("false", Json::Kind::kBoolean);
            case 'n': return word("null", Json::Kind::kNull);
            default: return number();
        }
    }

    Json object(int depth) {
        Json read{Json::Kind::kObject, {}, {}, {}};
        expect('{');
        if (take('}')) {
            return read;
        }
        do {
            skip_spaces();
            read.names.push_back(string());
            expect(':');
            read.items.push_back(value(depth + 1));
        } while (take(','));
        expect('}');
        return read;
    }

    Json array(int depth) {
        Json read{Json::Kind::kArray, {}, {}, {}};
        expect('[');
        if (take(']')) {
            return read;
        }
        do {
            read.items.push_back(value(depth + 1));
        } while (take(','));
        expect(']');
        return read;
    }

    Json word(std::string const& expected, Json::Kind kind) {
        if (text_.compare(at_, expected.size(), expected) != 0) {
            fail("a value");
        }
        at_ += expected.size();
        return {kind, expected, {}, {}};
    }

    size_t digits() {
        size_t const began = at_;
        at_ = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
        return at_ - began;
    }

    Json number() {
        size_t const began = at_;
        at_ += peek() == '-' ? 1 : 0;
        bool const zero = peek() == '0';
        size_t const whole = digits();
        if (whole == 0 || (zero && whole > 1)) {
            fail("a value");
        }
        if (peek() == '.' && (++at_, digits() == 0)) {
            fail("digits after the point");
        }
        if (peek() == 'e' || peek() == 'E') {
            ++at_;
            at_ += peek() == '+' || peek() == '-' ? 1 : 0;
            if (digits() == 0) {
                fail("digits of the exponent");
            }
        }
        return {Json::Kind::kNumber, text_.substr(began, at_ - began), {}, {}};
    }

    std::string string() {
        if (peek() != '"') {
            fail("'\"'");
        }
        ++at_;
        std::string read;
        while (peek() != '"') {
            if (at_ >= text_.size() || static_cast<unsigned char>(peek()) < ' ') {
                fail("the end of the string");
            }
            char const next = text_[at_++];
            read += next == '\\' ? escaped() : std::string(1, next);
        }
        ++at_;
        return read;
    }

    std::string escaped() {
        static std::string const letters = "\"\\/bfnrt";
        static std::string const meanings = "\"\\/\b\f\n\r\t";
        char const letter = peek();
        ++at_;
        if (letter == 'u') {
            return utf8(code_point());
        }
        size_t const found = letters.find(letter);
        if (letter == '\0' || found == std::string::npos) {
            fail("an escape that JSON has");
        }
        return std::string(1, meanings[found]);
    }

    uint32_t hexadecimal() {
        std::string const four = text_.substr(std::min(at_, text_.size()), 4);
        if (four.size() != 4 || four.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
            fail("four hexadecimal digits");
        }
        at_ += 4;
        return static_cast<uint32_t>(std::strtoul(four.c_str(), nullptr, 16));
    }

    uint32_t code_point() {
        uint32_t const first = hexadecimal();
        if (first < 0xD800 || first > 0xDFFF) {
            return first;
        }
        // Two halves, high and low, make one code point beyond 16 bits.
        bool const pair = first < 0xDC00 && text_.compare(at_, 2, "\\u") == 0;
        at_ += pair ? 2 : 0;
        uint32_t const second = pair ? hexadecimal() : 0;
        if (second < 0xDC00 || second > 0xDFFF) {
            fail("the other half of a surrogate pair");
        }
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    static std::string utf8(uint32_t point) {
        auto const tail = [point](int shift) { return static_cast<char>(0x80 | ((point >> shift) & 0x3F)); };
        auto const head = [point](uint32_t mark, int shift) {
            return static_cast<char>(mark | (point >> shift));
        };
        if (point < 0x80) {
            return {static_cast<char>(point)};
        }
        if (point < 0x800) {
            return {head(0xC0, 6), tail(0)};
        }
        if (point < 0x10000) {
            return {head(0xE0, 12), tail(6), tail(0)};
        }
        return {head(0xF0, 18), tail(12), tail(6), tail(0)};
    }

    std::string const& text_;
    size_t at_ = 0;
};

}  // namespace

Json const* Json::find(std::string const& name) const {
    auto const found = std::find(names.begin(), names.end(), name);
    return found == names.end() ? nullptr : &items[static_cast<size_t>(found - names.begin())];
}

Json parse_json(std::string const& text) { return Reader(text).document(); }

}  // namespace sample
