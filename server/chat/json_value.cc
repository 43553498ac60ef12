#include "server/chat/json_value.h"

#include <charconv>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::server {
namespace {

// Of members with one key only the first stays, with the value of the last.
void MergeRepeatedKeys(std::vector<std::pair<std::string, JsonValue>>& members) {
  absl::flat_hash_map<std::string, size_t> place_of;  // owns its keys: the members move
  size_t kept = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    const auto [place, is_new] = place_of.try_emplace(members[i].first, kept);
    if (!is_new) {
      members[place->second].second = std::move(members[i].second);
    } else {
      if (kept != i) members[kept] = std::move(members[i]);
      ++kept;
    }
  }
  members.resize(kept);
}

// nlohmann's callbacks, in its spelling. Each returns whether to go on.
class TreeBuilder {
 public:
  using json = nlohmann::json;

  bool null() { return Put({}); }
  bool boolean(bool value) { return Put({.kind = JsonValue::Kind::kBool, .boolean = value}); }
  bool number_integer(json::number_integer_t value) { return PutNumber(absl::StrCat(value)); }
  bool number_unsigned(json::number_unsigned_t value) { return PutNumber(absl::StrCat(value)); }
  bool number_float(json::number_float_t value, const std::string& digits) {
    // Integers beyond 64 bits come here as well.
    const bool is_integer = digits.find_first_of(".eE") == std::string::npos;
    return PutNumber(is_integer ? digits : PythonFloat(value));
  }
  bool string(std::string& value) {
    return Put({.kind = JsonValue::Kind::kString, .text = std::move(value)});
  }
  bool binary(json::binary_t&) { return false; }  // not part of the text format
  bool start_object(std::size_t) { return Open(JsonValue::Kind::kObject); }
  bool key(std::string& value) {
    open_.back()->members.emplace_back(std::move(value), JsonValue());
    return true;
  }
  bool end_object() {
    MergeRepeatedKeys(open_.back()->members);
    open_.pop_back();
    return true;
  }
  bool start_array(std::size_t) { return Open(JsonValue::Kind::kArray); }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception& error) {
    constexpr int kOutOfRange = 406;
    problem_ = error.id == kOutOfRange
                   ? absl::StrCat("has a number too large for a double at byte ", position)
                   : absl::StrCat("is not valid JSON at byte ", position);
    return false;
  }

  JsonValue& root() { return root_; }
  const std::string& problem() const { return problem_; }

 private:
  // Where the next value goes: the root, a new item, or the member whose key was read.
  JsonValue& Place() {
    if (open_.empty()) return root_;
    JsonValue& parent = *open_.back();
    return parent.is_array() ? parent.items.emplace_back() : parent.members.back().second;
  }
  bool Put(JsonValue value) {
    Place() = std::move(value);
    return true;
  }
  bool PutNumber(std::string digits) {
    return Put({.kind = JsonValue::Kind::kNumber, .text = std::move(digits)});
  }
  bool Open(JsonValue::Kind kind) {
    if (open_.size() == kMaxJsonDepth) {
      problem_ = absl::StrCat("is nested deeper than ", kMaxJsonDepth, " levels");
      return false;
    }
    JsonValue& place = Place();
    place.kind = kind;
    open_.push_back(&place);
    return true;
  }

  JsonValue root_;
  // The values that are not closed yet, each inside the one before: only the last one grows, so
  // none of them moves.
  std::vector<JsonValue*> open_;
  std::string problem_;
};

}  // namespace

absl::StatusOr<JsonValue> ParseJson(std::string_view json) {
  TreeBuilder builder;
  if (!nlohmann::json::sax_parse(json, &builder)) {
    return absl::InvalidArgumentError(builder.problem());
  }
  return std::move(builder.root());
}

const JsonValue* FindMember(const JsonValue& value, std::string_view key) {
  for (const auto& [name, member] : value.members) {
    if (name == key) return &member;
  }
  return nullptr;
}

std::string PythonFloat(double value) {
  char buffer[32];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view shortest(buffer, end - buffer);  // [-]d[.ddd]e±xx
  std::string out;
  if (shortest.front() == '-') {
    out = "-";
    shortest.remove_prefix(1);
  }
  const size_t e = shortest.find('e');
  if (e == std::string_view::npos) return out.append(shortest);  // inf, nan
  int exponent = 0;
  std::from_chars(shortest.data() + e + (shortest[e + 1] == '+' ? 2 : 1), end, exponent);
  if (exponent < -4 || exponent >= 16) return out.append(shortest);

  std::string digits(1, shortest[0]);
  if (e > 2) digits.append(shortest.substr(2, e - 2));
  const int whole = exponent + 1;  // digits before the point
  if (whole <= 0) return absl::StrCat(out, "0.", std::string(-whole, '0'), digits);
  if (static_cast<int>(digits.size()) <= whole) {
    return absl::StrCat(out, digits, std::string(whole - digits.size(), '0'), ".0");
  }
  return absl::StrCat(out, digits.substr(0, whole), ".", digits.substr(whole));
}

}  // namespace tandem::server
