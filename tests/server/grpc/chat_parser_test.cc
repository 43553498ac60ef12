#include "server/grpc/chat_parser.h"

#include <functional>
#include <string>
#include <utility>
#include <variant>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Proto = v1::ChatRequest;

ServedModel DemoModel() {
  ServedModel model;
  model.name = "demo";
  model.context_length = 1000;
  model.vocab_size = 500;
  model.eos_ids = {1, 106};
  model.bos_id = 2;
  model.has_chat = true;
  return model;
}

v1::ChatMessage& AddMessage(Proto& proto, v1::Role role, const std::string& content) {
  v1::ChatMessage& message = *proto.add_messages();
  message.set_role(role);
  message.set_content(content);
  return message;
}

Proto Question() {
  Proto proto;
  AddMessage(proto, v1::USER, "What is the time?");
  return proto;
}

// A question, a call of a tool, and what the tool said.
Proto ToolRound() {
  Proto proto = Question();
  v1::Tool& tool = *proto.add_tools();
  tool.set_name("clock");
  tool.set_description("Tells the time");
  tool.set_parameters_json(R"({"type":"object","properties":{"zone":{"type":"string"}}})");
  v1::ToolCall& call = *AddMessage(proto, v1::ASSISTANT, "").add_tool_calls();
  call.set_id("c1");
  call.set_name("clock");
  call.set_arguments_json(R"({"zone":"UTC"})");
  AddMessage(proto, v1::TOOL, "noon").set_tool_call_id("c1");
  return proto;
}

absl::StatusOr<ParsedRequest> Parse(const Proto& proto, bool streaming = false) {
  const CallFacts call = {
      .streaming = streaming, .generated_id = "generated", .random_seed = 4711, .arrival_us = 1000};
  return ParseChatRequest(proto, DemoModel(), {.max_n = 4}, call);
}

std::string Rendered(const Proto& proto) {
  const absl::StatusOr<RenderedChat> chat = RenderChatRequest(proto, DemoModel());
  EXPECT_TRUE(chat.ok()) << chat.status();
  return chat.ok() ? chat->text : "";
}

TEST(ChatParserTest, AConversationBecomesAPromptWithTheClientsBytesMarked) {
  const absl::StatusOr<ParsedRequest> parsed = Parse(Question());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& prompt = std::get<TextPrompt>(parsed->spec.prompt);
  EXPECT_EQ(prompt.text, "<bos><|turn>user\nWhat is the time?<turn|>\n<|turn>model\n");
  EXPECT_FALSE(prompt.add_bos);
  EXPECT_TRUE(prompt.parse_special);
  ASSERT_EQ(prompt.client_spans.size(), 1u);
  EXPECT_EQ(prompt.text.substr(prompt.client_spans[0].begin,
                               prompt.client_spans[0].end - prompt.client_spans[0].begin),
            "What is the time?");
  ASSERT_TRUE(parsed->spec.chat.has_value());
  EXPECT_FALSE(parsed->spec.chat->separate_reasoning);
  EXPECT_EQ(parsed->request_id, "generated");
  EXPECT_EQ(parsed->spec.request.sampling.seed, 4711u);
}

TEST(ChatParserTest, PartsOfTextAreOneContent) {
  Proto proto;
  v1::ChatMessage& message = AddMessage(proto, v1::USER, "");
  message.add_parts()->set_text("What is ");
  message.add_parts()->set_text("the time?");
  EXPECT_EQ(Rendered(proto), Rendered(Question()));
}

TEST(ChatParserTest, ThinkingIsAskedForByFieldOrTemplateArgument) {
  Proto field = Question(), argument = Question(), both = Question();
  field.set_enable_thinking(true);
  (*argument.mutable_template_args_json())["enable_thinking"] = " true ";
  both.set_enable_thinking(true);
  (*both.mutable_template_args_json())["enable_thinking"] = "true";
  EXPECT_THAT(Rendered(field), HasSubstr("<|think|>"));
  EXPECT_EQ(Rendered(field), Rendered(argument));
  EXPECT_EQ(Rendered(field), Rendered(both));
  EXPECT_THAT(Rendered(Question()), Not(HasSubstr("<|think|>")));
}

TEST(ChatParserTest, ReasoningOfEarlierTurnsIsKeptOnRequest) {
  Proto proto = ToolRound();
  proto.mutable_messages(1)->set_reasoning("I need a clock.");
  AddMessage(proto, v1::USER, "And now?");
  EXPECT_THAT(Rendered(proto), Not(HasSubstr("I need a clock.")));
  (*proto.mutable_template_args_json())["preserve_thinking"] = "true";
  EXPECT_THAT(Rendered(proto), HasSubstr("I need a clock."));
}

TEST(ChatParserTest, ToolsAreShownUnlessTheModelMustNotCallThem) {
  Proto proto = ToolRound();
  EXPECT_THAT(Rendered(proto), HasSubstr("<|tool>declaration:clock"));
  EXPECT_THAT(Rendered(proto), HasSubstr("response:clock"));
  proto.mutable_tool_choice()->set_kind(v1::ToolChoice::NONE);
  EXPECT_THAT(Rendered(proto), Not(HasSubstr("<|tool>declaration:clock")));
  EXPECT_THAT(Rendered(proto), HasSubstr("response:clock"));
}

TEST(ChatParserTest, AFinalMessageGoesOnWithoutANewTurn) {
  Proto proto = Question();
  AddMessage(proto, v1::ASSISTANT, "It is");
  EXPECT_THAT(Rendered(proto), Not(::testing::EndsWith("It is")));
  proto.set_continue_final_message(true);
  EXPECT_THAT(Rendered(proto), ::testing::EndsWith("It is"));
}

TEST(ChatParserTest, TheWishToSeparateReasoningIsPassedOn) {
  Proto proto = Question();
  proto.set_separate_reasoning(true);
  const absl::StatusOr<ParsedRequest> parsed = Parse(proto);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->spec.chat->separate_reasoning);
}

// ---- what is refused ----

struct BadChat {
  const char* name;
  std::function<void(Proto&)> change;  // of ToolRound
  const char* field;
  const char* problem;  // part of the message
};

class BadChatTest : public ::testing::TestWithParam<BadChat> {};

TEST_P(BadChatTest, NamesTheField) {
  Proto proto = ToolRound();
  GetParam().change(proto);
  const absl::Status status = Parse(proto).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_EQ(GetReason(status).reason, "BAD_PARAMETER");
  EXPECT_EQ(GetReason(status).field, GetParam().field);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().field));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadChatTest,
    ::testing::Values(
        BadChat{"NoMessages", [](Proto& p) { p.clear_messages(); }, "messages", "0"},
        BadChat{"TooManyMessages",
                [](Proto& p) {
                  for (int i = 0; i < 1100; ++i) AddMessage(p, v1::USER, "again");
                },
                "messages", "1024"},
        BadChat{"TooMuchText",
                [](Proto& p) { p.mutable_messages(0)->set_content(std::string(5 << 20, 'x')); },
                "messages", "4194304"},
        BadChat{"NoRole", [](Proto& p) { p.mutable_messages(0)->set_role(v1::ROLE_UNSPECIFIED); },
                "messages[0].role", "is 0"},
        BadChat{"UnknownRole",
                [](Proto& p) { p.mutable_messages(0)->set_role(static_cast<v1::Role>(17)); },
                "messages[0].role", "is 17"},
        BadChat{"LateSystemMessage", [](Proto& p) { AddMessage(p, v1::SYSTEM, "be brief"); },
                "messages[3].role", "first"},
        BadChat{"ToolWithoutACall",
                [](Proto& p) {
                  AddMessage(p, v1::USER, "more");
                  AddMessage(p, v1::TOOL, "noon");
                },
                "messages[4].role", "TOOL"},
        BadChat{"ContentAndParts",
                [](Proto& p) { p.mutable_messages(0)->add_parts()->set_text("twice"); },
                "messages[0].parts", "beside content"},
        BadChat{"EmptyPart",
                [](Proto& p) {
                  p.mutable_messages(0)->clear_content();
                  p.mutable_messages(0)->add_parts()->set_text("a");
                  p.mutable_messages(0)->add_parts();
                },
                "messages[0].parts[1]", "is empty"},
        BadChat{"ToolParametersThatAreNoJson",
                [](Proto& p) { p.mutable_tools(0)->set_parameters_json("{"); },
                "tools[0].parameters_json", ""},
        BadChat{"UnusedToolParametersThatAreNoJson",
                [](Proto& p) {
                  p.mutable_tools(0)->set_parameters_json("{");
                  p.mutable_tool_choice()->set_kind(v1::ToolChoice::NONE);
                },
                "tools[0].parameters_json", ""},
        BadChat{"TooManyTools",
                [](Proto& p) {
                  for (int i = 0; i < 1024; ++i) p.add_tools()->set_name("t");
                },
                "tools", "1024"},
        BadChat{"TooManyToolCalls",
                [](Proto& p) {
                  for (int i = 0; i < 1024; ++i) p.mutable_messages(1)->add_tool_calls();
                },
                "messages[1].tool_calls", "1024"},
        BadChat{"ArgumentsThatAreNoJson",
                [](Proto& p) {
                  p.mutable_messages(1)->mutable_tool_calls(0)->set_arguments_json("zone=UTC");
                },
                "messages[1].tool_calls[0].arguments_json", ""},
        BadChat{"TemplateArgumentThatIsNoJson",
                [](Proto& p) { (*p.mutable_template_args_json())["enable_thinking"] = "yes"; },
                "template_args_json[\"enable_thinking\"]", ""},
        BadChat{"TemplateArgumentOfTheWrongType",
                [](Proto& p) { (*p.mutable_template_args_json())["preserve_thinking"] = "1"; },
                "template_args_json[\"preserve_thinking\"]", "true or false"},
        BadChat{"HugeTemplateArgument",
                [](Proto& p) {
                  (*p.mutable_template_args_json())["enable_thinking"] = std::string(2000, ' ');
                },
                "template_args_json[\"enable_thinking\"]", "1024"},
        BadChat{"UnknownTemplateArgument",
                [](Proto& p) { (*p.mutable_template_args_json())["date_string"] = "\"today\""; },
                "template_args_json[\"date_string\"]", "enable_thinking"},
        BadChat{"ContradictingThinking",
                [](Proto& p) {
                  p.set_enable_thinking(false);
                  (*p.mutable_template_args_json())["enable_thinking"] = "true";
                },
                "template_args_json[\"enable_thinking\"]", "contradicts"},
        BadChat{"ContinuingWhatIsNotAnAnswer", [](Proto& p) { p.set_continue_final_message(true); },
                "continue_final_message", "ASSISTANT"},
        BadChat{"ToolNamedWithoutKind",
                [](Proto& p) { p.mutable_tool_choice()->set_name("clock"); }, "tool_choice.name",
                "NAMED"},
        BadChat{"UnknownToolChoice",
                [](Proto& p) {
                  p.mutable_tool_choice()->set_kind(static_cast<v1::ToolChoice::Kind>(9));
                },
                "tool_choice.kind", "is 9"},
        BadChat{"NoText", [](Proto& p) { p.mutable_output()->set_text(false); }, "output.text",
                "is false"},
        BadChat{"SpecialTokensAsText",
                [](Proto& p) { p.mutable_output()->set_skip_special_tokens(false); },
                "output.skip_special_tokens", "is false"},
        BadChat{"SharedFields", [](Proto& p) { p.mutable_sampling()->set_top_p(2); },
                "sampling.top_p", "is 2"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ChatParserTest, WhatIsMissingIsNamed) {
  const std::pair<const char*, std::function<void(Proto&)>> cases[] = {
      {"messages[0].parts[0].image",
       [](Proto& p) {
         p.mutable_messages(0)->clear_content();
         p.mutable_messages(0)->add_parts()->set_image("\x89PNG");
       }},
      {"messages[0].parts[1].audio",
       [](Proto& p) {
         p.mutable_messages(0)->clear_content();
         p.mutable_messages(0)->add_parts()->set_text("listen");
         p.mutable_messages(0)->add_parts()->set_audio("RIFF");
       }},
      {"tool_choice.kind=REQUIRED",
       [](Proto& p) { p.mutable_tool_choice()->set_kind(v1::ToolChoice::REQUIRED); }},
      {"tool_choice.kind=NAMED",
       [](Proto& p) {
         p.mutable_tool_choice()->set_kind(v1::ToolChoice::NAMED);
         p.mutable_tool_choice()->set_name("clock");
       }},
      {"output.prompt_logprobs of a chat",
       [](Proto& p) { p.mutable_output()->set_prompt_logprobs(1); }},
      {"guided", [](Proto& p) { p.mutable_guided()->set_json_object(true); }},
  };
  for (const auto& [feature, change] : cases) {
    Proto proto = ToolRound();
    change(proto);
    const absl::Status status = Parse(proto).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_EQ(GetReason(status).reason, "FEATURE_UNSUPPORTED");
    EXPECT_EQ(GetReason(status).metadata["feature"], feature);
  }
}

TEST(ChatParserTest, PromptIdsAreEchoedInStreamsOnly) {
  Proto proto = Question();
  proto.mutable_output()->set_echo_prompt_token_ids(true);
  EXPECT_TRUE(Parse(proto, /*streaming=*/true).ok());
  EXPECT_EQ(Parse(proto).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ChatParserTest, AModelWithoutTurnsCannotChat) {
  ServedModel model = DemoModel();
  model.has_chat = false;
  EXPECT_TRUE(absl::IsUnimplemented(RenderChatRequest(Question(), model).status()));
}

}  // namespace
}  // namespace tandem::server
