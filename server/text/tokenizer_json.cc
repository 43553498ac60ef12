#include "server/text/tokenizer_json.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

using Json = nlohmann::json;

// Wording shared by all errors of one file.
class Refusal {
 public:
  explicit Refusal(std::string_view file) : file_(file) {}

  absl::Status operator()(std::string_view problem) const {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", file_, problem));
  }

 private:
  std::string_view file_;
};

// A value for an error message. Containers are only named: printing them would recurse as deep as
// the file nests.
std::string Show(const Json& value) {
  if (value.is_structured()) return value.type_name();
  return value.is_string() ? Quoted(value.get_ref<const std::string&>()) : value.dump();
}

// The member `key`, or null when absent. `object` is an object.
const Json& Member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

absl::Status CheckModel(const Json& model, const Refusal& refuse) {
  if (!model.is_object()) return refuse("model is missing or not an object");
  if (Member(model, "type") != "BPE") {
    return refuse(absl::StrFormat("model.type is %s but only \"BPE\" is supported",
                                  Show(Member(model, "type"))));
  }
  if (Member(model, "byte_fallback") != true) {
    return refuse(absl::StrFormat("model.byte_fallback is %s but must be true",
                                  Show(Member(model, "byte_fallback"))));
  }
  const Json& ignore_merges = Member(model, "ignore_merges");
  if (!ignore_merges.is_null() && ignore_merges != false) {
    return refuse(
        absl::StrFormat("model.ignore_merges is %s but must be false", Show(ignore_merges)));
  }
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) {
    return refuse(absl::StrFormat("model.dropout is %s but must be null", Show(dropout)));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = Member(model, key);
    if (!affix.is_null() && affix != "") {
      return refuse(absl::StrFormat("model.%s is %s but must be null", key, Show(affix)));
    }
  }
  return absl::OkStatus();
}

// The steps around BPE are fixed code here, so the file has to ask for exactly them.
absl::Status CheckPipeline(const Json& root, const Refusal& refuse) {
  const Json space = {{"String", " "}};
  const Json mark = {{"String", "\u2581"}};
  const Json normalizer = {{"type", "Replace"}, {"pattern", space}, {"content", "\u2581"}};
  if (Member(root, "normalizer") != normalizer) {
    return refuse("normalizer is not the one supported, Replace \" \" by U+2581");
  }
  const Json& split = Member(root, "pre_tokenizer");  // finds no space after the normalizer
  const bool splits_at_space = split.is_object() && Member(split, "type") == "Split" &&
                               Member(split, "pattern") == space &&
                               Member(split, "invert") == false;
  if (!split.is_null() && !splits_at_space) {
    return refuse("pre_tokenizer is not one of those supported, null or Split at \" \"");
  }
  const Json unmark = {{"type", "Replace"}, {"pattern", mark}, {"content", " "}};
  const Json decoder = {{"type", "Sequence"},
                        {"decoders", {unmark, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  if (Member(root, "decoder") != decoder) {
    return refuse(
        "decoder is not the one supported, Sequence of Replace U+2581 by \" \", ByteFallback, "
        "Fuse");
  }
  return absl::OkStatus();
}

// An integer in [0, limit), or nothing.
std::optional<int32_t> AsId(const Json& value, size_t limit) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto id = value.get<uint64_t>();
  if (id >= limit) return std::nullopt;
  return static_cast<int32_t>(id);
}

struct AddedEntry {
  std::string content;
  const Json* id;
  bool special;
};

absl::StatusOr<std::vector<AddedEntry>> ReadAddedTokens(const Json& list, const Refusal& refuse) {
  std::vector<AddedEntry> entries;
  if (list.is_null()) return entries;
  if (!list.is_array()) return refuse("added_tokens is not an array");
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& token = list[i];
    if (!token.is_object()) return refuse(absl::StrFormat("added_tokens[%d] is not an object", i));
    const Json& content = Member(token, "content");
    if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
      return refuse(
          absl::StrFormat("added_tokens[%d].content is %s but must be a text", i, Show(content)));
    }
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) {
      const Json& flag = Member(token, key);
      if (!flag.is_null() && flag != false) {
        return refuse(
            absl::StrFormat("added_tokens[%d].%s is %s but must be false", i, key, Show(flag)));
      }
    }
    const Json& special = Member(token, "special");
    if (!special.is_null() && !special.is_boolean()) {
      return refuse(absl::StrFormat("added_tokens[%d].special is %s but must be true or false", i,
                                    Show(special)));
    }
    entries.push_back({.content = content.get<std::string>(),
                       .id = &Member(token, "id"),
                       .special = special == true});
  }
  return entries;
}

// Fills tables.pieces and tables.added_tokens. With n different texts in vocabulary and added
// tokens together, n ids in [0, n) without a repetition leave no hole.
absl::Status ReadVocabulary(const Json& vocab, const std::vector<AddedEntry>& added,
                            const Refusal& refuse, TokenizerTables& tables) {
  if (!vocab.is_object()) return refuse("model.vocab is missing or not an object");
  size_t size = vocab.size();
  for (const AddedEntry& entry : added) size += vocab.contains(entry.content) ? 0 : 1;
  tables.pieces.resize(size);
  std::vector<bool> taken(size, false);
  const auto place = [&](const std::string& piece, int32_t id) {
    if (taken[id]) return false;
    taken[id] = true;
    tables.pieces[id] = piece;
    return true;
  };

  for (const auto& [piece, value] : vocab.items()) {
    const std::optional<int32_t> id = AsId(value, size);
    if (!id.has_value()) {
      return refuse(absl::StrFormat(
          "model.vocab[%s] is %s but the ids of %d entries must be 0..%d, without holes",
          Quoted(piece), Show(value), size, size - 1));
    }
    if (!place(piece, *id)) {
      return refuse(absl::StrFormat("model.vocab[%s] is %d, the id of %s too", Quoted(piece), *id,
                                    Quoted(tables.pieces[*id])));
    }
  }
  for (size_t i = 0; i < added.size(); ++i) {
    const AddedEntry& entry = added[i];
    const std::optional<int32_t> id = AsId(*entry.id, size);
    if (!id.has_value()) {
      return refuse(absl::StrFormat("added_tokens[%d].id is %s but must be in 0..%d", i,
                                    Show(*entry.id), size - 1));
    }
    const auto in_vocab = vocab.find(entry.content);
    if (in_vocab != vocab.end() && *in_vocab != *id) {
      return refuse(absl::StrFormat("added_tokens[%d].id is %d but model.vocab[%s] is %s", i, *id,
                                    Quoted(entry.content), Show(*in_vocab)));
    }
    if (in_vocab == vocab.end() && !place(entry.content, *id)) {
      return refuse(absl::StrFormat("added_tokens[%d].id is %d, the id of %s too", i, *id,
                                    Quoted(tables.pieces[*id])));
    }
    tables.added_tokens.push_back({.id = *id, .special = entry.special});
  }
  return absl::OkStatus();
}

// "left right" or ["left", "right"]. Pieces hold no ASCII space, but a left piece may be one.
std::optional<MergeRule> ReadMerge(Json& merge) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos) return std::nullopt;
    return MergeRule{text.substr(0, space), text.substr(space + 1)};
  }
  if (!merge.is_array() || merge.size() != 2) return std::nullopt;
  if (!merge[0].is_string() || !merge[1].is_string()) return std::nullopt;
  return MergeRule{std::move(merge[0].get_ref<std::string&>()),
                   std::move(merge[1].get_ref<std::string&>())};
}

}  // namespace

absl::StatusOr<TokenizerTables> ReadTokenizerJson(std::string_view json, std::string_view file) {
  const Refusal refuse(file);
  Json root;
  try {
    root = Json::parse(json);
  } catch (const Json::parse_error& error) {
    return refuse(absl::StrFormat("not JSON: malformed at byte %d of %d", error.byte, json.size()));
  } catch (const Json::exception&) {  // a number no double can hold
    return refuse("not JSON: a number is out of range");
  }
  if (!root.is_object()) return refuse("the file is not a JSON object");
  if (absl::Status s = CheckModel(Member(root, "model"), refuse); !s.ok()) return s;
  if (absl::Status s = CheckPipeline(root, refuse); !s.ok()) return s;

  const auto added = ReadAddedTokens(Member(root, "added_tokens"), refuse);
  if (!added.ok()) return added.status();
  TokenizerTables tables;
  Json& model = root["model"];
  if (absl::Status s = ReadVocabulary(Member(model, "vocab"), *added, refuse, tables); !s.ok()) {
    return s;
  }

  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) {
    return refuse("model.merges is missing or not an array");
  }
  tables.merges.reserve(merges->size());
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    std::optional<MergeRule> merge = ReadMerge((*merges)[rank]);
    if (!merge.has_value()) {
      return refuse(absl::StrFormat(
          "model.merges[%d] is %s but must be \"left right\" or [\"left\", \"right\"]", rank,
          Show((*merges)[rank])));
    }
    tables.merges.push_back(*std::move(merge));
  }
  return tables;
}

}  // namespace tandem::server
