#include "server/config/option_value.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/config/nearest_name.h"

namespace tandem::server {
namespace {

template <typename T>
struct OptionalTraits {
  using Value = T;
  static constexpr bool kIsOptional = false;
};
template <typename T>
struct OptionalTraits<std::optional<T>> {
  using Value = T;
  static constexpr bool kIsOptional = true;
};
template <typename T>
struct ListTraits {
  using Value = T;
  static constexpr bool kIsList = false;
};
template <typename T>
struct ListTraits<std::vector<T>> {
  using Value = T;
  static constexpr bool kIsList = true;
};

std::string NumberText(double x) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), x);
  return std::string(text.data(), end);
}

std::string ChoiceList(const OptionSpec& option) {
  std::string text;
  for (size_t i = 0; i < option.choices.size(); ++i) {
    if (i > 0) text += i + 1 == option.choices.size() ? " or " : ", ";
    text += option.choices[i];
  }
  return text;
}

absl::Status Refused(std::string_view where, std::string_view value, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is '%s'; %s", std::string(where), std::string(value), std::string(why)));
}

absl::Status CheckChoice(const OptionSpec& option, std::string_view text, std::string_view where) {
  if (option.choices.empty()) return absl::OkStatus();
  if (std::find(option.choices.begin(), option.choices.end(), text) != option.choices.end()) {
    return absl::OkStatus();
  }
  std::string why = "the choices are " + ChoiceList(option);
  const std::string_view nearest = NearestName(text, option.choices);
  if (!nearest.empty()) why += absl::StrFormat(" (did you mean %s?)", std::string(nearest));
  return Refused(where, text, why);
}

std::string RangeText(const OptionSpec& option) {
  if (option.min == 0 && option.max == 0) return "0 to 18446744073709551615";
  if (option.max >= 2147483647.0) return absl::StrFormat("%s or more", NumberText(option.min));
  return absl::StrFormat("%s to %s", NumberText(option.min), NumberText(option.max));
}

template <typename Number>
absl::Status ParseNumber(const OptionSpec& option, std::string_view text, std::string_view where,
                         Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const char* const kind = std::is_integral_v<Number> ? "an integer" : "a number";
  if (error == std::errc::result_out_of_range) {
    return Refused(where, text, "the range is " + RangeText(option));
  }
  if (error != std::errc() || end != text.data() + text.size()) {
    return Refused(where, text, absl::StrFormat("%s is expected, %s", kind, RangeText(option)));
  }
  if constexpr (std::is_floating_point_v<Number>) {
    if (!std::isfinite(number)) return Refused(where, text, "a finite number is expected");
  }
  const bool bounded = option.min != 0 || option.max != 0;
  if (bounded && !(number >= option.min && number <= option.max)) {
    return Refused(where, text, "the range is " + RangeText(option));
  }
  return CheckChoice(option, text, where);
}

absl::Status ParseOne(const OptionSpec&, const std::string& text, std::string_view where,
                      bool& value) {
  if (text != "true" && text != "false") return Refused(where, text, "true or false is expected");
  value = text == "true";
  return absl::OkStatus();
}

absl::Status ParseOne(const OptionSpec& option, const std::string& text, std::string_view where,
                      std::string& value) {
  if (absl::Status s = CheckChoice(option, text, where); !s.ok()) return s;
  if (option.check != nullptr) {
    if (absl::Status s = option.check(text); !s.ok()) {
      return Refused(where, text, std::string(s.message()));
    }
  }
  value = text;
  return absl::OkStatus();
}

absl::Status ParseOne(const OptionSpec&, const std::string& text, std::string_view where,
                      MemoryAmount& value) {
  absl::StatusOr<MemoryAmount> amount = ParseMemoryAmount(text);
  if (!amount.ok()) return Refused(where, text, std::string(amount.status().message()));
  value = *amount;
  return absl::OkStatus();
}

absl::Status ParseOne(const OptionSpec& option, const std::string& text, std::string_view where,
                      int& value) {
  return ParseNumber(option, text, where, value);
}
absl::Status ParseOne(const OptionSpec& option, const std::string& text, std::string_view where,
                      uint64_t& value) {
  return ParseNumber(option, text, where, value);
}
absl::Status ParseOne(const OptionSpec& option, const std::string& text, std::string_view where,
                      double& value) {
  return ParseNumber(option, text, where, value);
}

std::string TextOf(bool value) { return value ? "true" : "false"; }
std::string TextOf(int value) { return std::to_string(value); }
std::string TextOf(uint64_t value) { return std::to_string(value); }
std::string TextOf(double value) { return NumberText(value); }
std::string TextOf(const std::string& value) { return value; }
std::string TextOf(const MemoryAmount& value) {
  if (value.share > 0) return NumberText(value.share * 100) + "%";
  if (value.automatic()) return "auto";
  constexpr std::array<std::string_view, 3> kUnits = {"GiB", "MiB", "KiB"};
  for (int i = 0; i < 3; ++i) {
    const uint64_t unit = uint64_t{1} << (30 - 10 * i);
    if (value.bytes % unit == 0) return std::to_string(value.bytes / unit) + std::string(kUnits[i]);
  }
  return std::to_string(value.bytes);
}

// A TOML basic string.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += absl::StrFormat("\\u%04X", static_cast<int>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

template <typename T>
std::string TomlOf(const T& value) {
  if constexpr (std::is_arithmetic_v<T>)
    return TextOf(value);
  else
    return Quoted(TextOf(value));
}

// The elements of the option's value as text: one but for lists, none when it is absent.
std::vector<std::string> Elements(const OptionSpec& option, const Settings& settings, bool toml) {
  Settings copy = settings;
  std::vector<std::string> elements;
  const auto add = [&](const auto& value) {
    elements.push_back(toml ? TomlOf(value) : TextOf(value));
  };
  std::visit(
      [&](auto* target) {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (ListTraits<T>::kIsList) {
          for (const auto& element : *target) add(element);
        } else if constexpr (OptionalTraits<T>::kIsOptional) {
          if (target->has_value()) add(**target);
        } else {
          add(*target);
        }
      },
      option.target(copy));
  return elements;
}

}  // namespace

absl::Status StoreValue(const OptionSpec& option, std::span<const std::string> values,
                        std::string_view where, Settings& settings) {
  const bool may_be_empty =
      std::holds_alternative<std::optional<std::string>*>(option.target(settings));
  for (const std::string& value : values) {
    if (value.empty() && !may_be_empty) return Refused(where, value, "a value is expected");
  }
  return std::visit(
      [&](auto* target) -> absl::Status {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (ListTraits<T>::kIsList) {
          target->clear();
          for (const std::string& value : values) {
            typename ListTraits<T>::Value element{};
            if (absl::Status s = ParseOne(option, value, where, element); !s.ok()) return s;
            target->push_back(element);
          }
          if (target->empty() && option.unset.empty()) {
            return Refused(where, "", "at least one value is expected");
          }
          return absl::OkStatus();
        } else {
          if (values.size() != 1) {
            return absl::InvalidArgumentError(
                absl::StrFormat("%s is given %d times ('%s'); it takes one value",
                                std::string(where), values.size(), absl::StrJoin(values, "', '")));
          }
          typename OptionalTraits<T>::Value value{};
          if (absl::Status s = ParseOne(option, values[0], where, value); !s.ok()) return s;
          *target = value;
          return absl::OkStatus();
        }
      },
      option.target(settings));
}

bool IsList(const OptionSpec& option) {
  Settings settings;
  return std::visit([](auto* t) { return ListTraits<std::remove_pointer_t<decltype(t)>>::kIsList; },
                    option.target(settings));
}

bool IsSwitch(const OptionSpec& option) {
  Settings settings;
  return std::holds_alternative<bool*>(option.target(settings));
}

bool IsNumber(const OptionSpec& option) {
  Settings settings;
  return std::visit(
      [](auto* t) {
        using T = typename ListTraits<std::remove_pointer_t<decltype(t)>>::Value;
        using Value = typename OptionalTraits<T>::Value;
        return std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>;
      },
      option.target(settings));
}

std::string ValueText(const OptionSpec& option, const Settings& settings) {
  return absl::StrJoin(Elements(option, settings, /*toml=*/false), ",");
}

std::string ValueToml(const OptionSpec& option, const Settings& settings) {
  const std::string text = absl::StrJoin(Elements(option, settings, /*toml=*/true), ", ");
  return IsList(option) ? "[" + text + "]" : text;
}

std::string DefaultText(const OptionSpec& option) {
  if (IsSwitch(option)) return "";
  const std::string text = ValueText(option, Settings{});
  const bool absent = text.empty() || (text == "0" && !option.unset.empty());
  return absent ? std::string(option.unset) : text;
}

absl::StatusOr<MemoryAmount> ParseMemoryAmount(std::string_view text) {
  constexpr std::string_view kExpected =
      "a size such as 4GiB or 512MiB, a share such as 60%, or auto, is expected";
  if (text == "auto") return MemoryAmount{};
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) {
    return absl::InvalidArgumentError(kExpected.data());
  }
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit == "%") {
    if (!(number > 0 && number <= 100)) {
      return absl::InvalidArgumentError("a share is more than 0% and at most 100%");
    }
    return MemoryAmount{.share = number / 100};
  }
  struct Unit {
    std::string_view name;
    double bytes;
  };
  constexpr double kKiB = 1024.0;
  constexpr std::array<Unit, 14> kUnits = {{{"", 1},
                                            {"b", 1},
                                            {"k", kKiB},
                                            {"kib", kKiB},
                                            {"kb", 1e3},
                                            {"m", kKiB * kKiB},
                                            {"mib", kKiB * kKiB},
                                            {"mb", 1e6},
                                            {"g", kKiB * kKiB * kKiB},
                                            {"gib", kKiB * kKiB * kKiB},
                                            {"gb", 1e9},
                                            {"t", kKiB * kKiB * kKiB * kKiB},
                                            {"tib", kKiB * kKiB * kKiB * kKiB},
                                            {"tb", 1e12}}};
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double bytes = number * known.bytes;
    if (bytes < kKiB * kKiB || bytes > 1e15) {
      return absl::InvalidArgumentError(
          "the range is 1MiB to 900TiB; a number without a unit is bytes");
    }
    return MemoryAmount{.bytes = static_cast<uint64_t>(bytes)};
  }
  return absl::InvalidArgumentError(kExpected.data());
}

}  // namespace tandem::server
