// What a tokenizer.json may not contain, and that nothing in one can crash the server.

#include "server/text/tokenizer_json.h"

#include <cstdio>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"
#include "test_tokenizers.h"

namespace tandem::server {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

struct Fault {
  std::string name;
  std::function<void(Json&)> inject;
  std::vector<std::string> named;  // what the error must mention
};

class TokenizerFaultTest : public testing::TestWithParam<Fault> {};

TEST_P(TokenizerFaultTest, IsRefusedByNameAndValue) {
  // Given a good file with one fault.
  Json file = SyntheticTokenizerJson();
  GetParam().inject(file);
  // When it is loaded.
  const auto tokenizer = Tokenizer::FromJson(file.dump(), "some/tokenizer.json");
  // Then the error names the file, the field and the value.
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(tokenizer.status().message());
  EXPECT_THAT(message, HasSubstr("some/tokenizer.json: "));
  for (const std::string& text : GetParam().named) EXPECT_THAT(message, HasSubstr(text));
}

// Renumbers so that removing `piece` leaves no hole: the last entry takes its id.
void RemovePiece(Json& file, const std::string& piece) {
  Json& vocab = file["model"]["vocab"];
  const int hole = vocab[piece], last = static_cast<int>(vocab.size()) - 1;
  vocab.erase(piece);
  for (auto& [text, id] : vocab.items()) {
    if (id == last) id = hole;
  }
  for (Json& token : file["added_tokens"]) {  // those past the vocabulary move down
    if (token["id"] > last) token["id"] = token["id"].get<int>() - 1;
  }
}

const std::vector<Fault> kFaults = {
    {"NotAnObject", [](Json& f) { f = Json::array(); }, {"not a JSON object"}},
    {"NoModel", [](Json& f) { f.erase("model"); }, {"model is missing"}},
    {"ModelIsAList", [](Json& f) { f["model"] = Json::array(); }, {"model is missing or not"}},
    {"OtherModelType", [](Json& f) { f["model"]["type"] = "Unigram"; }, {"model.type", "Unigram"}},
    {"NoModelType", [](Json& f) { f["model"].erase("type"); }, {"model.type is null"}},
    {"NoByteFallback",
     [](Json& f) { f["model"]["byte_fallback"] = false; },
     {"model.byte_fallback is false"}},
    {"MergesIgnored",
     [](Json& f) { f["model"]["ignore_merges"] = true; },
     {"model.ignore_merges is true"}},
    {"Dropout", [](Json& f) { f["model"]["dropout"] = 0.5; }, {"model.dropout is 0.5"}},
    {"SubwordPrefix",
     [](Json& f) { f["model"]["continuing_subword_prefix"] = "##"; },
     {"model.continuing_subword_prefix is \"##\""}},
    {"WordSuffix",
     [](Json& f) { f["model"]["end_of_word_suffix"] = "</w>"; },
     {"model.end_of_word_suffix is \"</w>\""}},
    {"NoNormalizer", [](Json& f) { f["normalizer"] = nullptr; }, {"normalizer"}},
    {"OtherNormalizer",
     [](Json& f) {
       f["normalizer"] = {{"type", "NFKC"}};
     },
     {"normalizer"}},
    {"NormalizerWithOtherContent",
     [](Json& f) { f["normalizer"]["content"] = "_"; },
     {"normalizer"}},
    {"OtherPreTokenizer",
     [](Json& f) {
       f["pre_tokenizer"] = {{"type", "ByteLevel"}};
     },
     {"pre_tokenizer"}},
    {"PreTokenizerThatSplits",
     [](Json& f) {
       f["pre_tokenizer"]["pattern"] = {{"String", "e"}};
     },
     {"pre_tokenizer"}},
    {"InvertedPreTokenizer",
     [](Json& f) { f["pre_tokenizer"]["invert"] = true; },
     {"pre_tokenizer"}},
    {"NoDecoder", [](Json& f) { f.erase("decoder"); }, {"decoder"}},
    {"DecoderThatStrips",
     [](Json& f) {
       f["decoder"]["decoders"].push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}});
     },
     {"decoder"}},
    {"NoVocab", [](Json& f) { f["model"].erase("vocab"); }, {"model.vocab is missing"}},
    {"VocabIsAList", [](Json& f) { f["model"]["vocab"] = Json::array(); }, {"model.vocab"}},
    {"HoleInIds",
     [](Json& f) { f["model"]["vocab"]["hello"] = 5000; },
     {"model.vocab[\"hello\"] is 5000", "without holes"}},
    {"NegativeId",
     [](Json& f) { f["model"]["vocab"]["hello"] = -1; },
     {"model.vocab[\"hello\"] is -1"}},
    {"FractionalId",
     [](Json& f) { f["model"]["vocab"]["hello"] = 15.0; },
     {"model.vocab[\"hello\"] is 15.0"}},
    {"IdIsText",
     [](Json& f) { f["model"]["vocab"]["hello"] = "15"; },
     {"model.vocab[\"hello\"] is \"15\""}},
    {"HugeId",
     [](Json& f) { f["model"]["vocab"]["hello"] = uint64_t{1} << 32 | 15; },
     {"model.vocab[\"hello\"] is 4294967311"}},
    {"RepeatedId",
     [](Json& f) { f["model"]["vocab"]["hello"] = 14; },
     {"is 14, the id of", "\"hell\"", "\"hello\""}},
    {"NoByteToken", [](Json& f) { RemovePiece(f, "<0x9A>"); }, {"byte token <0x9A>"}},
    {"LowerCaseByteToken",
     [](Json& f) {
       f["model"]["vocab"]["<0x9a>"] = f["model"]["vocab"]["<0x9A>"];
       f["model"]["vocab"].erase("<0x9A>");
     },
     {"byte token <0x9A>"}},
    {"NoBos",
     [](Json& f) {
       f["added_tokens"].erase(2);
       RemovePiece(f, "<bos>");
     },
     {"no <bos>"}},
    {"NoSpacePiece",
     [](Json& f) {
       f["model"]["merges"] = Json::array();
       RemovePiece(f, "▁");
     },
     {"no \"▁\""}},
    {"NoMerges", [](Json& f) { f["model"].erase("merges"); }, {"model.merges is missing"}},
    {"MergesAreAnObject",
     [](Json& f) { f["model"]["merges"] = Json::object(); },
     {"model.merges is missing or not an array"}},
    {"MergeWithoutSpace",
     [](Json& f) { f["model"]["merges"][3] = "hello"; },
     {"model.merges[3] is \"hello\""}},
    {"EmptyMerge", [](Json& f) { f["model"]["merges"][3] = ""; }, {"model.merges[3] is \"\""}},
    {"MergeOfThree",
     [](Json& f) {
       f["model"]["merges"][3] = {"h", "e", "l"};
     },
     {"model.merges[3] is array"}},
    {"MergeOfNumbers",
     [](Json& f) {
       f["model"]["merges"][3] = {1, 2};
     },
     {"model.merges[3]"}},
    {"MergeWithNumberAsLeft",
     [](Json& f) {
       f["model"]["merges"][3] = {1, "h"};
     },
     {"model.merges[3]"}},
    {"MergeOfUnknownLeft",
     [](Json& f) {
       f["model"]["merges"][3] = {"zz", "h"};
     },
     {"merges[3]", "no \"zz\""}},
    {"MergeOfUnknownRight",
     [](Json& f) { f["model"]["merges"][3] = "h zz"; },
     {"merges[3]", "no \"zz\""}},
    {"MergeIntoUnknown",
     [](Json& f) {
       f["model"]["merges"][3] = {"h", "h"};
     },
     {"merges[3]", "no \"hh\""}},
    {"AddedTokensAreAnObject",
     [](Json& f) { f["added_tokens"] = Json::object(); },
     {"added_tokens is not an array"}},
    {"AddedTokenIsText",
     [](Json& f) { f["added_tokens"][1] = "<eos>"; },
     {"added_tokens[1] is not an object"}},
    {"AddedTokenWithoutContent",
     [](Json& f) { f["added_tokens"][1].erase("content"); },
     {"added_tokens[1].content is null"}},
    {"EmptyAddedToken",
     [](Json& f) { f["added_tokens"][1]["content"] = ""; },
     {"added_tokens[1].content is \"\""}},
    {"StrippingAddedToken",
     [](Json& f) { f["added_tokens"][1]["lstrip"] = true; },
     {"added_tokens[1].lstrip is true"}},
    {"NormalizedAddedToken",
     [](Json& f) { f["added_tokens"][1]["normalized"] = true; },
     {"added_tokens[1].normalized is true"}},
    {"SpecialIsANumber",
     [](Json& f) { f["added_tokens"][1]["special"] = 1; },
     {"added_tokens[1].special is 1"}},
    {"AddedTokenOutOfRange",
     [](Json& f) { f["added_tokens"][5]["id"] = 9000; },
     {"added_tokens[5].id is 9000"}},
    {"AddedTokenWithoutId",
     [](Json& f) { f["added_tokens"][5].erase("id"); },
     {"added_tokens[5].id is null"}},
    {"AddedTokenContradictsVocab",
     [](Json& f) { f["added_tokens"][1]["id"] = 7; },
     {"added_tokens[1].id is 7", "model.vocab[\"<eos>\"] is 1"}},
    {"AddedTokenTakesAnId",
     [](Json& f) { f["added_tokens"][5]["id"] = f["added_tokens"][4]["id"]; },
     {"added_tokens[5].id is", "\"<|turn>\""}},
    {"AddedTokenListedTwice",
     [](Json& f) { f["added_tokens"][1] = f["added_tokens"][0]; },
     {"added_tokens[1].id is 0, listed before"}},
};

INSTANTIATE_TEST_SUITE_P(Faults, TokenizerFaultTest, testing::ValuesIn(kFaults),
                         [](const auto& info) { return info.param.name; });

TEST(TokenizerJsonTest, TextThatIsNotJsonIsRefusedWithItsPlace) {
  for (const std::string text : {"", "{", "nonsense", "{\"model\": \"\xFF\"}", "[1e999999]"}) {
    const auto tokenizer = Tokenizer::FromJson(text, "t.json");
    ASSERT_FALSE(tokenizer.ok()) << text;
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("t.json: not JSON: "));
  }
}

TEST(TokenizerJsonTest, AMissingFileIsNotFound) {
  const auto tokenizer = Tokenizer::Load("/nonexistent/tokenizer.json");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("/nonexistent/tokenizer.json"));
  EXPECT_EQ(Tokenizer::Load(testing::TempDir()).status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenizerJsonTest, AFileLoadsLikeItsContent) {
  const std::string path = testing::TempDir() + "/tandem_text_test_tokenizer.json";
  std::ofstream(path) << SyntheticTokenizerJson();
  const auto tokenizer = Tokenizer::Load(path);
  std::remove(path.c_str());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->vocab_size(), SyntheticTokenizer().vocab_size());
}

TEST(TokenizerJsonTest, MergesLoadInBothSpellings) {
  // Given the synthetic file, whose merges are texts, with pairs in their place.
  Json file = SyntheticTokenizerJson();
  for (Json& merge : file["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  // When both are read.
  const auto pairs = ReadTokenizerJson(file.dump(), "pairs");
  const auto texts = ReadTokenizerJson(SyntheticTokenizerJson().dump(), "texts");
  // Then they hold the same merges.
  ASSERT_TRUE(pairs.ok() && texts.ok());
  ASSERT_EQ(pairs->merges.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(pairs->merges[i].left, texts->merges[i].left);
    EXPECT_EQ(pairs->merges[i].right, texts->merges[i].right);
  }
}

TEST(TokenizerJsonTest, AMergeTextSplitsAtItsFirstSpacePastTheFirstByte) {
  Json file = SyntheticTokenizerJson();
  file["model"]["merges"] = {"h e", "  e"};
  const auto tables = ReadTokenizerJson(file.dump(), "t.json");
  ASSERT_TRUE(tables.ok()) << tables.status();
  EXPECT_EQ(tables->merges[1].left, " ");
  EXPECT_EQ(tables->merges[1].right, "e");
}

TEST(TokenizerJsonTest, OptionalPartsMayBeAbsent) {
  Json file = SyntheticTokenizerJson();
  file.erase("pre_tokenizer");
  file["added_tokens"] = nullptr;
  for (const char* key : {"dropout", "ignore_merges", "continuing_subword_prefix",
                          "end_of_word_suffix", "unk_token", "fuse_unk"}) {
    file["model"].erase(key);
  }
  const auto tokenizer = Tokenizer::FromJson(file.dump(), "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->bos_id()));
}

TEST(TokenizerJsonTest, TablesFromElsewhereAreCheckedToo) {
  const auto tables = ReadTokenizerJson(SyntheticTokenizerJson().dump(), "t.json");
  ASSERT_TRUE(tables.ok());
  const auto problem_of = [&](const std::function<void(TokenizerTables&)>& inject) {
    TokenizerTables faulty = *tables;
    inject(faulty);
    const absl::Status status = Tokenizer::Create(std::move(faulty), "model.gguf").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(problem_of([](auto& t) { t.pieces[15] = "hell"; }),
              AllOf(HasSubstr("model.gguf: "), HasSubstr("entry 15 repeats entry 14, \"hell\"")));
  EXPECT_THAT(problem_of([](auto& t) { t.added_tokens[4].id = -1; }),
              HasSubstr("added_tokens[4].id is -1, not in the vocabulary"));
  EXPECT_THAT(problem_of([](auto& t) { t.pieces[t.added_tokens[4].id] = ""; }),
              HasSubstr("added_tokens[4].id is 277, an entry without text"));
}

// Loading must end in an error or in a tokenizer that works.
void LoadAndUse(const std::string& json) {
  const auto tokenizer = Tokenizer::FromJson(json, "fuzz");
  if (!tokenizer.ok()) {
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(tokenizer.status().message().size(), 2000u);
    return;
  }
  const Encoding encoding = tokenizer->EncodePrompt("hello <|turn> world 🚀\xFF", true, true);
  for (const int32_t id : encoding.ids) EXPECT_TRUE(tokenizer->vocabulary().Contains(id));
  Decode(*tokenizer, encoding.ids, /*skip_special=*/false);
}

TEST(TokenizerJsonTest, ATruncatedFileIsRefused) {
  const std::string json = SyntheticTokenizerJson().dump();
  for (size_t size = 0; size < json.size(); size += 7) {
    EXPECT_FALSE(Tokenizer::FromJson(json.substr(0, size), "t").ok()) << size;
  }
}

TEST(TokenizerJsonTest, DamagedBytesNeverCrash) {
  std::mt19937 rng(11);
  const std::string json = SyntheticTokenizerJson().dump();
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = json;
    for (int i = 0; i < 1 + round % 4; ++i) {
      const size_t at = rng() % damaged.size();
      switch (rng() % 3) {
        case 0:
          damaged[at] = static_cast<char>(rng());
          break;
        case 1:
          damaged.erase(at, 1 + rng() % 5);
          break;
        default:
          damaged.insert(at, 1, "0{}[]\",:-n"[rng() % 10]);
      }
    }
    LoadAndUse(damaged);
  }
}

// Every value of the file, the file itself first.
void CollectPaths(const Json& value, const Json::json_pointer& at,
                  std::vector<Json::json_pointer>& paths) {
  paths.push_back(at);
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) CollectPaths(child, at / key, paths);
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) CollectPaths(value[i], at / i, paths);
  }
}

TEST(TokenizerJsonTest, AValueOfAnotherKindNeverCrashes) {
  // Given a file, and values of every kind, one nested far deeper than any stack could follow.
  const Json file = SyntheticTokenizerJson();
  std::vector<Json::json_pointer> paths;
  CollectPaths(file, Json::json_pointer(), paths);
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const std::vector<Json> others = {
      nullptr,           true,      -1, 0.5, 1e300, "", "x", Json::array(), Json::object(),
      {{"type", "BPE"}}, {"a", "b"}};
  // When each stands in for each value of the file, then loading survives.
  for (const Json::json_pointer& path : paths) {
    for (const Json& other : others) {
      Json changed = file;
      changed[path] = other;
      LoadAndUse(changed.dump());
    }
  }
  for (const char* path : {"/model", "/model/type", "/model/dropout", "/normalizer", "/decoder",
                           "/pre_tokenizer/pattern", "/model/vocab/hello", "/model/merges/2",
                           "/model/merges/2/0", "/added_tokens/1/id", "/added_tokens/1/special"}) {
    Json changed = file;
    if (std::string(path) == "/model/merges/2/0") changed["model"]["merges"][2] = {"a", "b"};
    changed[Json::json_pointer(path)] = "HERE";
    std::string json = changed.dump();
    json.replace(json.find("\"HERE\""), 6, deep);
    LoadAndUse(json);
  }
}

}  // namespace
}  // namespace tandem::server
