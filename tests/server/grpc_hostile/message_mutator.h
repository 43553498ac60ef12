// Valid messages made extreme: random fields of any protobuf message, set to values that hurt.
#pragma once

#include <random>
#include <string>

#include "google/protobuf/message.h"

namespace tandem::server {

class MessageMutator {
 public:
  explicit MessageMutator(uint64_t seed) : random_(seed) {}

  // Sets `edits` random fields, at any depth.
  void Mutate(google::protobuf::Message& message, int edits);
  // Bytes that may or may not be a message: noise, or `valid` cut, flipped or repeated.
  std::string Noise(const std::string& valid);

  // A number in [0, end).
  int Below(int end) { return static_cast<int>(random_() % end); }

 private:
  void Edit(google::protobuf::Message& message);
  void SetOne(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field);
  void AddOne(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field);
  std::string Text();
  double Real();
  uint64_t Integer();

  std::mt19937_64 random_;
};

}  // namespace tandem::server
