#include "engine/config_reader.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::engine {

void ConfigReader::Fail(std::string_view key, std::string_view what) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat(name_, ": ", std::string(key), " ", std::string(what)));
}

const Json* ConfigReader::Find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

int ConfigReader::Int(const char* key, std::optional<int> fallback, int low, int high) {
  const Json* value = Find(key);
  if (value == nullptr) {
    if (!fallback.has_value()) Fail(key, "is missing");
    return fallback.value_or(low);
  }
  if (!value->is_number_integer()) {
    Fail(key, absl::StrCat("is ", Shown(*value), ", not an integer"));
    return low;
  }
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= uint64_t(kMaxDim)
                                                : value->get<int64_t>() >= -int64_t{kMaxDim};
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    Fail(key, absl::StrFormat("is %s, outside %d..%d", Shown(*value), low, high));
    return low;
  }
  return value->get<int>();
}

float ConfigReader::Float(const char* key, float fallback, double low, double high) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) {
    Fail(key, absl::StrCat("is ", Shown(*value), ", not a number"));
    return fallback;
  }
  const double number = value->get<double>();
  if (!(number >= low && number <= high)) {
    Fail(key, absl::StrFormat("is %g, outside %g..%g", number, low, high));
    return fallback;
  }
  return static_cast<float>(number);
}

bool ConfigReader::Bool(const char* key, bool fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(key, absl::StrCat("is ", Shown(*value), ", not true or false"));
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::String(const char* key, const std::string& fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Fail(key, absl::StrCat("is ", Shown(*value), ", not a string"));
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<int32_t> ConfigReader::Ids(const char* key, int vocab) {
  std::vector<int32_t> ids;
  const Json* value = Find(key);
  if (value == nullptr) return ids;
  const auto add = [&](const Json& item) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() >= vocab) {
      Fail(key, absl::StrFormat("holds %s, which is no token id below the vocabulary size %d",
                                Shown(item), vocab));
      return false;
    }
    ids.push_back(item.get<int32_t>());
    return true;
  };
  if (!value->is_array()) {
    add(*value);
    return ids;
  }
  for (const Json& item : *value) {
    if (!add(item)) break;
  }
  return ids;
}

std::string ConfigReader::Shown(const Json& value) {
  if (value.is_array()) return "a list";  // spelling it out would recurse as deep as it nests
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

absl::StatusOr<Json> ParseJsonObject(std::string_view text, const std::string& name) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON (cut off?)"));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the top level is not an object"));
  }
  return json;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(path, " can not be read: ", strerror(errno)));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace tandem::engine
