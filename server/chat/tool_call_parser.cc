#include "server/chat/tool_call_parser.h"

#include <cctype>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_set.h"
#include "server/chat/json_value.h"
#include "server/chat/tool_name.h"

namespace tandem::server {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string JsonString(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/false,
                                   nlohmann::json::error_handler_t::replace);
}

// Reads from the front of a text and writes JSON. After a false from any of them both are of no
// use.
class CallReader {
 public:
  explicit CallReader(std::string_view text) : rest_(text) {}

  std::optional<ParsedToolCall> Read() {
    ParsedToolCall call;
    Space();
    if (!Take("call:")) return std::nullopt;
    Space();
    const size_t end = rest_.find_first_of(" \t\r\n{");
    call.name = rest_.substr(0, end);
    if (!IsToolName(call.name)) return std::nullopt;
    rest_.remove_prefix(call.name.size());
    Space();
    if (!Object(/*depth=*/1)) return std::nullopt;
    Space();
    if (!rest_.empty()) return std::nullopt;
    call.arguments_json = std::move(json_);
    return call;
  }

 private:
  void Space() {
    const size_t end = rest_.find_first_not_of(" \t\r\n");
    rest_.remove_prefix(std::min(end, rest_.size()));
  }

  bool Take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  bool Take(char c) { return Take(std::string_view(&c, 1)); }

  // The characters between two quote marks.
  std::optional<std::string_view> Quoted() {
    if (!Take(kQuoteMark)) return std::nullopt;
    const size_t end = rest_.find(kQuoteMark);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return text;
  }

  std::optional<std::string_view> Key() {
    if (rest_.starts_with(kQuoteMark)) return Quoted();
    constexpr std::string_view kNotInKeys = ":,{}[]\xFF";
    const size_t end = rest_.find_first_of(kNotInKeys);
    if (end == std::string_view::npos || end == 0 || rest_[end] != ':') return std::nullopt;
    std::string_view key = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return key.substr(0, key.find_last_not_of(" \t\r\n") + 1);
  }

  bool Object(int depth) {
    if (depth > kMaxJsonDepth || !Take('{')) return false;
    json_ += '{';
    absl::flat_hash_set<std::string> keys;
    for (bool first = true;; first = false) {
      Space();
      if (first && Take('}')) break;
      const std::optional<std::string_view> key = Key();
      if (!key.has_value() || !keys.emplace(*key).second) return false;
      Space();
      if (!Take(':')) return false;
      if (!first) json_ += ',';
      json_ += JsonString(*key);
      json_ += ':';
      if (!Value(depth)) return false;
      Space();
      if (Take('}')) break;
      if (!Take(',')) return false;
    }
    json_ += '}';
    return true;
  }

  bool Array(int depth) {
    if (depth > kMaxJsonDepth || !Take('[')) return false;
    json_ += '[';
    for (bool first = true;; first = false) {
      Space();
      if (first && Take(']')) break;
      if (!first) json_ += ',';
      if (!Value(depth)) return false;
      Space();
      if (Take(']')) break;
      if (!Take(',')) return false;
    }
    json_ += ']';
    return true;
  }

  // `depth` of the container it stands in.
  bool Value(int depth) {
    Space();
    if (rest_.empty()) return false;
    if (rest_[0] == '{') return Object(depth + 1);
    if (rest_[0] == '[') return Array(depth + 1);
    if (rest_[0] == kQuoteMark) {
      const std::optional<std::string_view> text = Quoted();
      if (text.has_value()) json_ += JsonString(*text);
      return text.has_value();
    }
    for (const std::string_view word : {"true", "false", "null"}) {
      if (!Take(word)) continue;
      json_ += word;
      return true;
    }
    return Number();
  }

  // As JSON has them: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
  bool Number() {
    size_t n = 0;
    const auto at = [&](size_t i) { return i < rest_.size() ? rest_[i] : '\0'; };
    const auto digits = [&] {
      const size_t begin = n;
      while (IsDigit(at(n))) ++n;
      return n > begin;
    };
    if (at(n) == '-') ++n;
    if (at(n) == '0') {
      ++n;
    } else if (!digits()) {
      return false;
    }
    if (at(n) == '.') {
      ++n;
      if (!digits()) return false;
    }
    if (at(n) == 'e' || at(n) == 'E') {
      ++n;
      if (at(n) == '+' || at(n) == '-') ++n;
      if (!digits()) return false;
    }
    json_ += rest_.substr(0, n);
    rest_.remove_prefix(n);
    return true;
  }

  std::string_view rest_;
  std::string json_;
};

}  // namespace

std::optional<ParsedToolCall> ParseToolCall(std::string_view text) {
  return CallReader(text).Read();
}

}  // namespace tandem::server
