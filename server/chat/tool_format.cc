#include "server/chat/tool_format.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"

namespace tandem::server {
namespace {

using Kind = JsonValue::Kind;
using Member = std::pair<std::string, JsonValue>;

// Writes the comma in front of every entry but the first.
class Commas {
 public:
  explicit Commas(SpanText& out) : out_(out) {}
  void Next() {
    if (!std::exchange(first_, false)) out_.Literal(",");
  }

 private:
  SpanText& out_;
  bool first_ = true;
};

// By key without regard to case, equal ones as written: Jinja's dictsort. Letters outside ASCII
// count as they are.
std::vector<const Member*> Sorted(const JsonValue& object) {
  std::vector<std::pair<std::string, const Member*>> by_key;
  by_key.reserve(object.members.size());
  for (const Member& member : object.members) {
    by_key.emplace_back(absl::AsciiStrToLower(member.first), &member);
  }
  std::stable_sort(by_key.begin(), by_key.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const Member*> sorted;
  sorted.reserve(by_key.size());
  for (const auto& [key, member] : by_key) sorted.push_back(member);
  return sorted;
}

// What Python takes for true.
bool IsTruthy(const JsonValue* value) {
  if (value == nullptr) return false;
  switch (value->kind) {
    case Kind::kNull:
      return false;
    case Kind::kBool:
      return value->boolean;
    case Kind::kNumber:  // 0, 0.0, -0.0; "0e5" has been printed as 0.0
      return value->text.find_first_not_of("-0.") != std::string::npos;
    case Kind::kString:
      return !value->text.empty();
    case Kind::kArray:
      return !value->items.empty();
    case Kind::kObject:
      return !value->members.empty();
  }
  return false;
}

// Keys are bare in calls; in declarations those of free-form objects are strings.
void AppendValue(const JsonValue& value, bool quote_keys, SpanText& out) {
  Commas commas(out);
  switch (value.kind) {
    case Kind::kNull:
      return out.Literal("null");
    case Kind::kBool:
      return out.Literal(value.boolean ? "true" : "false");
    case Kind::kNumber:
      return out.Client(value.text);
    case Kind::kString:
      return out.ClientString(value.text);
    case Kind::kArray:
      out.Literal("[");
      for (const JsonValue& item : value.items) {
        commas.Next();
        AppendValue(item, quote_keys, out);
      }
      return out.Literal("]");
    case Kind::kObject:
      out.Literal("{");
      for (const Member* member : Sorted(value)) {
        commas.Next();
        if (quote_keys) {
          out.ClientString(member->first);
        } else {
          out.Client(member->first);
        }
        out.Literal(":");
        AppendValue(member->second, quote_keys, out);
      }
      return out.Literal("}");
  }
}

// A description or a name where JSON Schema wants a string; anything else as a value.
void AppendAsString(const JsonValue& value, SpanText& out) {
  if (value.is_string() || value.kind == Kind::kNumber) {
    out.ClientString(value.text);
  } else {
    AppendValue(value, /*quote_keys=*/true, out);
  }
}

void AppendStrings(const JsonValue& array, SpanText& out) {
  out.Literal("[");
  Commas commas(out);
  for (const JsonValue& item : array.items) {
    commas.Next();
    AppendAsString(item, out);
  }
  out.Literal("]");
}

struct SchemaType {
  std::string name;  // upper case; empty when the schema does not say
  bool nullable = false;
};

SchemaType TypeOf(const JsonValue& schema) {
  const JsonValue* type = FindMember(schema, "type");
  if (type == nullptr) return {};
  if (!type->is_array()) return {.name = absl::AsciiStrToUpper(type->text)};
  SchemaType found;
  for (const JsonValue& item : type->items) {
    const std::string name = absl::AsciiStrToUpper(item.text);
    if (name == "NULL") {
      found.nullable = true;
    } else if (found.name.empty()) {
      found.name = name;
    }
  }
  return found;
}

void AppendProperties(const JsonValue& properties, bool without_keywords, SpanText& out);

// What describes the entries of an array: every member, sorted.
void AppendItems(const JsonValue& items, SpanText& out) {
  out.Literal("items:{");
  Commas commas(out);
  for (const Member* member : Sorted(items)) {
    const auto& [key, value] = *member;
    if (value.kind == Kind::kNull) continue;
    commas.Next();
    out.Client(key);
    out.Literal(":");
    if (key == "properties") {
      out.Literal("{");
      AppendProperties(value, /*without_keywords=*/false, out);
      out.Literal("}");
    } else if (key == "required") {
      AppendStrings(value, out);
    } else if (key == "type" && (value.is_string() || value.is_array())) {
      JsonValue upper = value;
      upper.text = absl::AsciiStrToUpper(upper.text);
      for (JsonValue& item : upper.items) item.text = absl::AsciiStrToUpper(item.text);
      AppendValue(upper, /*quote_keys=*/true, out);
    } else {
      AppendValue(value, /*quote_keys=*/true, out);
    }
  }
  out.Literal("}");
}

// {description:...,enum:[...],items:{...},nullable:true,properties:{...},required:[...],type:...},
// only the parts that there are; the type is always there and last.
void AppendSchema(const JsonValue& schema, SpanText& out) {
  const SchemaType type = TypeOf(schema);
  const JsonValue* description = FindMember(schema, "description");
  const JsonValue* choices = FindMember(schema, "enum");
  const JsonValue* items = FindMember(schema, "items");
  const JsonValue* properties = FindMember(schema, "properties");
  const JsonValue* required = FindMember(schema, "required");

  out.Literal("{");
  Commas commas(out);
  if (IsTruthy(description)) {
    commas.Next();
    out.Literal("description:");
    AppendAsString(*description, out);
  }
  if (type.name == "STRING" && IsTruthy(choices)) {
    commas.Next();
    out.Literal("enum:");
    AppendValue(*choices, /*quote_keys=*/true, out);
  }
  if (type.name == "ARRAY" && IsTruthy(items) && items->is_object()) {
    commas.Next();
    AppendItems(*items, out);
  }
  if (type.nullable || IsTruthy(FindMember(schema, "nullable"))) {
    commas.Next();
    out.Literal("nullable:true");
  }
  if (type.name == "OBJECT") {
    commas.Next();
    out.Literal("properties:{");
    // Without properties, its own members count as such.
    const bool has_properties = properties != nullptr && properties->is_object();
    AppendProperties(has_properties ? *properties : schema, !has_properties, out);
    out.Literal("}");
    if (IsTruthy(required) && required->is_array()) {
      commas.Next();
      out.Literal("required:");
      AppendStrings(*required, out);
    }
  }
  commas.Next();
  out.Literal("type:");
  out.ClientString(type.name);
  out.Literal("}");
}

// key:{...},key:{...}
void AppendProperties(const JsonValue& properties, bool without_keywords, SpanText& out) {
  constexpr std::string_view kKeywords[] = {"description", "type", "properties", "required",
                                            "nullable"};
  Commas commas(out);
  for (const Member* member : Sorted(properties)) {
    const auto& [key, value] = *member;
    if (without_keywords &&
        std::find(std::begin(kKeywords), std::end(kKeywords), key) != std::end(kKeywords)) {
      continue;
    }
    commas.Next();
    out.Client(key);
    out.Literal(":");
    AppendSchema(value, out);
  }
}

}  // namespace

void AppendDeclaration(std::string_view name, std::string_view description,
                       const JsonValue& parameters, SpanText& out) {
  out.Literal("<|tool>declaration:");
  out.Client(name);
  out.Literal("{description:");
  out.ClientString(description);
  if (!parameters.members.empty()) {
    out.Literal(",parameters:{");
    if (const JsonValue* properties = FindMember(parameters, "properties");
        IsTruthy(properties) && properties->is_object()) {
      out.Literal("properties:{");
      AppendProperties(*properties, /*without_keywords=*/false, out);
      out.Literal("},");
    }
    if (const JsonValue* required = FindMember(parameters, "required");
        IsTruthy(required) && required->is_array()) {
      out.Literal("required:");
      AppendStrings(*required, out);
      out.Literal(",");
    }
    const std::string type = TypeOf(parameters).name;
    out.Literal("type:");
    out.ClientString(type.empty() ? "OBJECT" : type);
    out.Literal("}");
  }
  out.Literal("}<tool|>");
}

void AppendCall(std::string_view name, const JsonValue& arguments, SpanText& out) {
  out.Literal("<|tool_call>call:");
  out.Client(name);
  if (arguments.is_object()) {
    AppendValue(arguments, /*quote_keys=*/false, out);
  } else {
    out.Literal("{}");
  }
  out.Literal("<tool_call|>");
}

void AppendResponse(std::string_view name, std::string_view content, SpanText& out) {
  out.Literal("<|tool_response>response:");
  out.Client(name);
  out.Literal("{value:");
  out.ClientString(content);
  out.Literal("}<tool_response|>");
}

}  // namespace tandem::server
