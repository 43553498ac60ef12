#include "server/grpc/value_count.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "tandem/v1/chat.pb.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {
namespace {

using google::protobuf::io::ArrayInputStream;

template <class Message>
absl::Status CheckBytes(const std::string& bytes) {
  ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  return CheckNumValues(stream, *Message::descriptor());
}

TEST(ValueCountTest, TheLargestSensibleRequestsPass) {
  v1::GenerateRequest generate;
  for (int i = 0; i < (1 << 20); ++i) generate.mutable_token_ids()->add_ids(i);  // packed
  for (int i = 0; i < 1024; ++i) (*generate.mutable_sampling()->mutable_logit_bias())[i] = 1.0f;
  EXPECT_TRUE(CheckBytes<v1::GenerateRequest>(generate.SerializeAsString()).ok());
  v1::ChatRequest chat;
  for (int i = 0; i < 1024; ++i) {
    v1::ChatMessage& message = *chat.add_messages();
    for (int j = 0; j < 100; ++j) message.add_parts()->set_text("a");
  }
  EXPECT_TRUE(CheckBytes<v1::ChatRequest>(chat.SerializeAsString()).ok());
}

TEST(ValueCountTest, TooManyAreRefusedAtEveryDepth) {
  // Given empty messages at the top, empty parts in one message, short strings in a nested one, and
  // fields that nobody knows.
  std::string messages, unknown;
  for (int64_t i = 0; i <= kMaxValues; ++i) {
    messages += std::string("\x1a\x00", 2);
    unknown += std::string("\xf8\x7f\x01", 3);
  }
  v1::ChatRequest parts, stops;
  for (int64_t i = 0; i <= kMaxValues; ++i) {
    if (i == 0) parts.add_messages();
    parts.mutable_messages(0)->add_parts();
    stops.mutable_stopping()->add_stop("");
  }
  for (const std::string& bytes :
       {messages, unknown, parts.SerializeAsString(), stops.SerializeAsString()}) {
    const absl::Status status = CheckBytes<v1::ChatRequest>(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(GetReason(status).reason, "BAD_PARAMETER");
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("262144"));
  }
}

TEST(ValueCountTest, WhatIsNoMessageIsLeftToTheParser) {
  v1::ChatRequest chat;
  chat.add_messages()->set_content("hello");
  const std::string good = chat.SerializeAsString();
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_TRUE(CheckBytes<v1::ChatRequest>(good.substr(0, n)).ok()) << n;
  }
  EXPECT_TRUE(CheckBytes<v1::ChatRequest>("\x1a\xff\xff\xff\xff\x0f").ok());
  EXPECT_TRUE(CheckBytes<v1::ChatRequest>("\xff\xff\xff\xff\xff\xff").ok());
}

}  // namespace
}  // namespace tandem::server
