#include "test_tokenizers.h"

#include <iostream>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

Tokenizer Must(absl::StatusOr<Tokenizer> tokenizer) {
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    std::abort();
  }
  return *std::move(tokenizer);
}

void AppendUtf8(char32_t c, std::string& text) {
  const auto byte = [&](char32_t value) { text.push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6), byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 0x3F)), byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 0x3F)), byte(0x80 | (c >> 6 & 0x3F)),
        byte(0x80 | (c & 0x3F));
  }
}

}  // namespace

nlohmann::json SyntheticTokenizerJson() {
  const std::vector<std::string> pieces = {
      "<pad>", "<eos>", "<bos>",  "<unk>",  "h",      "e",      "l",     "o",  "▁",
      "w",     "r",     "d",      "he",     "hel",    "hell",   "hello", "▁w", "▁wo",
      "▁wor",  "▁worl", "▁world", "<0xF0>", "<0x9F>", "<0x9A>", "<0x80>"};
  nlohmann::json vocab = nlohmann::json::object();
  for (const std::string& piece : pieces) vocab[piece] = vocab.size();
  for (int byte = 0; byte < 256; ++byte) {
    const std::string piece = absl::StrFormat("<0x%02X>", byte);
    if (!vocab.contains(piece)) vocab[piece] = vocab.size();
  }
  nlohmann::json added = nlohmann::json::array();
  const auto add = [&](int id, const std::string& text) {
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  };
  for (int id = 0; id < 4; ++id) add(id, pieces[id]);
  add(static_cast<int>(vocab.size()), "<|turn>");
  add(static_cast<int>(vocab.size()) + 1, "<|turn>>");
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}},
          {"pre_tokenizer",
           {{"type", "Split"},
            {"pattern", {{"String", " "}}},
            {"behavior", "MergedWithPrevious"},
            {"invert", false}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}}}}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", "<unk>"},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges",
             {"h e", "he l", "hel l", "hell o", "▁ w", "▁w o", "▁wo r", "▁wor l", "▁worl d"}}}}};
}

Tokenizer SyntheticTokenizer() {
  return Must(Tokenizer::FromJson(SyntheticTokenizerJson().dump(), "synthetic"));
}

std::string GoldenPath(const std::string& variant, const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/golden/" + variant + "/" + name;
}

Tokenizer GoldenTokenizer(const std::string& variant) {
  return Must(Tokenizer::Load(GoldenPath(variant, "target/tokenizer.json")));
}

const Tokenizer& DemoTokenizer() {
  static const Tokenizer* const tokenizer = new Tokenizer(
      Must(Tokenizer::Load(std::string(TANDEM_SOURCE_DIR) + "/models/demo/tokenizer.json")));
  return *tokenizer;
}

std::string RandomText(std::mt19937& rng, int code_points) {
  constexpr char32_t kPlaneEnds[] = {0x80, 0x80, 0x250, 0x10000, 0x110000};
  std::string text;
  for (int i = 0; i < code_points;) {
    const char32_t c = rng() % kPlaneEnds[rng() % std::size(kPlaneEnds)];
    if ((c >= 0xD800 && c < 0xE000) || c == 0x2581 || c == '<') continue;
    AppendUtf8(c, text);
    ++i;
  }
  return text;
}

}  // namespace tandem::server
