// Reads the keys of one JSON object of a checkpoint, with the limits of each.
//
// Promise   A key of the wrong type or outside its limits is an error that names file and key;
//           nothing in a file, however large or deeply nested, does more harm than that.
// Not here  which keys there are (text_config.h, model_config.h, assistant_config.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::engine {

using Json = nlohmann::json;

constexpr int kMaxDim = 1 << 24;  // no dimension of a model is near this

// A key that is absent or null takes its fallback. Every call answers something inside its limits;
// status() tells the first thing that was wrong.
class ConfigReader {
 public:
  // `object` is borrowed. `name` begins every message.
  ConfigReader(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const absl::Status& status() const { return status_; }
  void Fail(std::string_view key, std::string_view what);

  // Null when absent or JSON null.
  const Json* Find(const char* key) const;

  // Without a fallback the key must be there.
  int Int(const char* key, std::optional<int> fallback, int low, int high);
  float Float(const char* key, float fallback, double low, double high);
  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, const std::string& fallback);
  // A single token id or a list of them, in the order given.
  std::vector<int32_t> Ids(const char* key, int vocab);

  // A value for a message, cut short.
  static std::string Shown(const Json& value);

 private:
  const Json& object_;
  std::string name_;
  absl::Status status_;
};

// The object that `text` spells. `name` begins every message.
absl::StatusOr<Json> ParseJsonObject(std::string_view text, const std::string& name);

// A whole file, NotFound when it can not be read.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace tandem::engine
