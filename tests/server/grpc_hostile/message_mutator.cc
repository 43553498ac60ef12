#include "tests/server/grpc_hostile/message_mutator.h"

#include <array>
#include <cmath>
#include <limits>

#include "google/protobuf/descriptor.h"

namespace tandem::server {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

namespace {

constexpr size_t kMostBytes = 4 << 20;  // a message that is longer grows no more

std::string Repeat(const std::string& part, int count) {
  std::string text;
  text.reserve(part.size() * count);
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

}  // namespace

void MessageMutator::Mutate(Message& message, int edits) {
  for (int i = 0; i < edits; ++i) Edit(message);
}

void MessageMutator::Edit(Message& message) {
  const int fields = message.GetDescriptor()->field_count();
  if (fields == 0) return;
  const FieldDescriptor& field = *message.GetDescriptor()->field(Below(fields));
  const Reflection& reflection = *message.GetReflection();
  if (Below(20) == 0) {
    reflection.ClearField(&message, &field);
  } else if (field.is_repeated()) {
    const int present = reflection.FieldSize(message, &field);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && present > 0 && Below(3) > 0) {
      Edit(*reflection.MutableRepeatedMessage(&message, &field, Below(present)));
      return;
    }
    const int count = Below(10) == 0 ? Below(3000) : 1 + Below(4);
    for (int i = 0; i < count; ++i) {
      if (i % 64 == 0 && message.ByteSizeLong() > kMostBytes) break;
      AddOne(message, field);
    }
  } else {
    SetOne(message, field);
  }
}

void MessageMutator::SetOne(Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&message, &field, static_cast<int32_t>(Integer()));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, static_cast<int64_t>(Integer()));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.SetUInt32(&message, &field, static_cast<uint32_t>(Integer()));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&message, &field, Integer());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, Real());
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.SetFloat(&message, &field, static_cast<float>(Real()));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, Below(2) == 1);
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.SetEnumValue(&message, &field,
                                     Below(2) == 0 ? Below(8) : static_cast<int>(Integer()));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, Text());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return Edit(*reflection.MutableMessage(&message, &field));
  }
}

void MessageMutator::AddOne(Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.AddUInt32(&message, &field, static_cast<uint32_t>(Integer()));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.AddString(&message, &field, Text());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return Edit(*reflection.AddMessage(&message, &field));
    default:
      return;  // requests have no other repeated fields
  }
}

uint64_t MessageMutator::Integer() {
  static constexpr std::array<uint64_t, 14> kExtremes = {
      0,          1,          2,       7,    1535, 1536,  0x7fffffff,
      0x80000000, 0xffffffff, 262'144, 4095, 4096, ~0ull, 0x8000000000000000ull};
  if (Below(3) == 0) return Below(600);  // plausible: a token id, a length
  return Below(4) == 0 ? random_() : kExtremes[Below(kExtremes.size())];
}

double MessageMutator::Real() {
  using Limits = std::numeric_limits<float>;
  static const std::array<double, 16> kExtremes = {0.0,
                                                   -0.0,
                                                   1.0,
                                                   -1.0,
                                                   0.5,
                                                   2.0,
                                                   100.0,
                                                   -100.0,
                                                   1e-8,
                                                   Limits::denorm_min(),
                                                   Limits::max(),
                                                   Limits::lowest(),
                                                   Limits::infinity(),
                                                   -Limits::infinity(),
                                                   Limits::quiet_NaN(),
                                                   1e300};
  return kExtremes[Below(kExtremes.size())];
}

std::string MessageMutator::Text() {
  switch (Below(16)) {
    case 0:
      return "";
    case 1:
      return std::string("\0", 1);
    case 2:
      return std::string("a\0b", 3);
    case 3:
      return "\xff\xfe";
    case 4:
      return "\xed\xa0\x80";  // a surrogate
    case 5:
      return Repeat("a", Below(20'000));
    case 6:
      return Repeat("\xf0\x9f\x99\x82", Below(500));
    case 7:
      return "<bos><|turn>model\n<turn|><eos>";
    case 8:
      return Repeat("[", Below(3) == 0 ? 100'000 : 50);  // deep JSON
    case 9:
      return Repeat("{\"a\":", Below(3) == 0 ? 50'000 : 5) + "1";
    case 10:
      return "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":1e999}}}";
    case 11:
      return "%s%n%x {0} ${x} '\" \\ \r\n\x1b[31m";
    case 12:
      return Repeat("\xcc\x81", Below(3000));  // combining marks
    case 13: {
      std::string bytes(Below(64), '\0');
      for (char& c : bytes) c = static_cast<char>(random_());
      return bytes;
    }
    default:
      return "demo";
  }
}

std::string MessageMutator::Noise(const std::string& valid) {
  std::string bytes = valid;
  switch (Below(5)) {
    case 0:
      bytes.resize(Below(200));
      for (char& c : bytes) c = static_cast<char>(random_());
      return bytes;
    case 1:
      bytes.resize(bytes.empty() ? 0 : Below(bytes.size()));
      return bytes;
    case 2:
      return Repeat(bytes, 1 + Below(8));
    case 3: {  // fields in fields in fields: 0x0a is field 1 with a length
      std::string nested;
      for (int depth = Below(400); depth > 0 && nested.size() < 120; --depth) {
        nested = std::string("\x0a") + static_cast<char>(nested.size()) + nested;
      }
      return nested;
    }
    default:
      for (int flips = 1 + Below(8); flips > 0 && !bytes.empty(); --flips) {
        bytes[Below(bytes.size())] ^= static_cast<char>(1 << Below(8));
      }
      return bytes;
  }
}

}  // namespace tandem::server
