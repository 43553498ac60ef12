#include "server/config/toml_file.h"

#include <toml++/toml.h>

#include <sstream>

#include "absl/strings/str_format.h"
#include "server/config/nearest_name.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

std::string Place(std::string_view file, const toml::source_region& source) {
  return absl::StrFormat("%s:%d:%d", std::string(file), source.begin.line, source.begin.column);
}

// Keys are found by the setting's name; `config` itself can not stand in the file.
const OptionSpec* FindKey(std::string_view key) {
  for (const OptionSpec& option : Options()) {
    if (option.is_setting && option.name != "config" && TomlKey(option) == key) return &option;
  }
  return nullptr;
}

absl::Status UnknownKey(std::string_view key, std::string_view place) {
  std::vector<std::string> keys;
  for (const OptionSpec& option : Options()) {
    if (option.is_setting && option.name != "config") keys.push_back(TomlKey(option));
  }
  const std::vector<std::string_view> known(keys.begin(), keys.end());
  std::string message =
      absl::StrFormat("%s: there is no setting %s", std::string(place), std::string(key));
  const std::string_view nearest = NearestName(key, known);
  if (!nearest.empty()) message += absl::StrFormat("; did you mean %s?", std::string(nearest));
  return absl::InvalidArgumentError(message);
}

// The value as text when its TOML type suits the option; nullopt otherwise.
std::optional<std::string> ScalarText(const OptionSpec& option, const toml::node& node) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  if (IsNumber(option)) {
    if (const auto* integer = node.as_integer()) {
      text << integer->get();
      return text.str();
    }
    if (const auto* real = node.as_floating_point()) {
      text << real->get();
      return text.str();
    }
    return std::nullopt;
  }
  if (const auto* word = node.as_string()) return word->get();
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::vector<Assignment>> ParseToml(std::string_view text, std::string_view file) {
  toml::table table;
  try {
    table = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s", Place(file, error.source()), std::string(error.description())));
  }
  std::vector<Assignment> assignments;
  for (const auto& [key, node] : table) {
    const std::string_view name = key.str();
    const std::string place = Place(file, key.source());
    if (node.is_table() || node.is_array_of_tables()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: [%s] is a table; settings stand at the top, such as max_slots = 16",
                          place, std::string(name)));
    }
    const OptionSpec* const option = FindKey(name);
    if (option == nullptr) return UnknownKey(name, place);
    Assignment assignment = {.option = option,
                             .where = absl::StrFormat("%s: %s", place, std::string(name))};
    const auto add = [&](const toml::node& value) -> absl::Status {
      std::optional<std::string> word = ScalarText(*option, value);
      if (!word.has_value()) {
        return absl::InvalidArgumentError(absl::StrFormat("%s is not a %s", assignment.where,
                                                          IsNumber(*option) ? "number" : "string"));
      }
      assignment.values.push_back(*std::move(word));
      return absl::OkStatus();
    };
    if (const toml::array* const array = node.as_array(); array != nullptr && IsList(*option)) {
      for (const toml::node& element : *array) {
        if (absl::Status s = add(element); !s.ok()) return s;
      }
    } else if (absl::Status s = add(node); !s.ok()) {
      return s;
    }
    if (assignment.values == std::vector<std::string>{""}) continue;
    assignments.push_back(std::move(assignment));
  }
  return assignments;
}

}  // namespace tandem::server
