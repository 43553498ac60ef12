// JSON from a client as a tree of plain values that prints as Python would print it.
//
// In        JSON text.
// Out       a JsonValue; members in the order in which they were written.
// Not here  what the members mean (tool_format.h).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::server {

inline constexpr int kMaxJsonDepth = 64;

struct JsonValue {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  // Of a string, its characters; of a number, what Python prints: integers of any size as their
  // digits, floats in shortest round-trip form with a decimal point or an exponent.
  std::string text;
  std::vector<JsonValue> items;                            // of an array
  std::vector<std::pair<std::string, JsonValue>> members;  // of an object; no key twice

  bool is_string() const { return kind == Kind::kString; }
  bool is_array() const { return kind == Kind::kArray; }
  bool is_object() const { return kind == Kind::kObject; }
};

// Of a key that is written twice the last value counts, in the place of the first.
//   errors  kInvalidArgument, to follow the name of the field: not JSON (and where), nested deeper
//           than kMaxJsonDepth, a number beyond what a double can hold
absl::StatusOr<JsonValue> ParseJson(std::string_view json);

// A member of an object; nullptr when there is none, or `value` is no object.
const JsonValue* FindMember(const JsonValue& value, std::string_view key);

// As Python prints a float: repr(value).
std::string PythonFloat(double value);

}  // namespace tandem::server
