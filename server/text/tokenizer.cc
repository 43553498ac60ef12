#include "server/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

// SanitizeUtf8 of the stretches inside and outside of `spans`; `moved` is where the spans are now.
std::string SanitizeAround(std::string_view text, std::span<const ByteSpan> spans,
                           std::vector<ByteSpan>& moved) {
  std::string out;
  size_t at = 0;
  for (const ByteSpan& span : spans) {
    out += SanitizeUtf8(text.substr(at, span.begin - at));
    const size_t begin = out.size();
    out += SanitizeUtf8(text.substr(span.begin, span.end - span.begin));
    moved.push_back({.begin = begin, .end = out.size()});
    at = span.end;
  }
  return out += SanitizeUtf8(text.substr(at));
}

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrFormat("%s: cannot read: %s", path, error.message()));
  }
  std::string json(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(json.data(), static_cast<std::streamsize>(size))) {
    return absl::NotFoundError(
        absl::StrFormat("%s: cannot read its %d bytes; check its permissions", path, size));
  }
  return FromJson(json, path);
}

absl::StatusOr<Tokenizer> Tokenizer::FromJson(std::string_view json, std::string_view name) {
  absl::StatusOr<TokenizerTables> tables = ReadTokenizerJson(json, name);
  if (!tables.ok()) return tables.status();
  return Create(*std::move(tables), name);
}

absl::StatusOr<Tokenizer> Tokenizer::Create(TokenizerTables tables, std::string_view name) {
  absl::StatusOr<Vocabulary> vocab = Vocabulary::Create(std::move(tables.pieces), name);
  if (!vocab.ok()) return vocab.status();
  absl::StatusOr<Bpe> bpe = Bpe::Create(*vocab, tables.merges, name);
  if (!bpe.ok()) return bpe.status();
  Tokenizer tokenizer(*std::move(vocab), *std::move(bpe));

  const std::optional<int32_t> bos = tokenizer.vocab_.Find("<bos>");
  if (!bos.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the vocabulary has no <bos>, which starts every sequence", name));
  }
  tokenizer.bos_id_ = *bos;

  tokenizer.is_special_.resize(tokenizer.vocab_size(), false);
  std::vector<bool> seen(tokenizer.vocab_size(), false);
  for (size_t i = 0; i < tables.added_tokens.size(); ++i) {
    const AddedToken& token = tables.added_tokens[i];
    const auto refuse = [&](std::string_view problem) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: added_tokens[%d].id is %d, %s", name, i, token.id, problem));
    };
    if (!tokenizer.vocab_.Contains(token.id)) return refuse("not in the vocabulary");
    if (tokenizer.vocab_.Piece(token.id).empty()) return refuse("an entry without text");
    if (seen[token.id]) return refuse("listed before");
    seen[token.id] = true;
    tokenizer.is_special_[token.id] = token.special;
    tokenizer.added_tokens_.Add(tokenizer.vocab_.Piece(token.id), token.id);
  }
  return tokenizer;
}

Encoding Tokenizer::Encode(std::string_view text, bool parse_special) const {
  return EncodePrompt(text, /*add_bos=*/false, parse_special);
}

Encoding Tokenizer::EncodePrompt(std::string_view text, bool add_bos, bool parse_special,
                                 std::span<const ByteSpan> client_spans) const {
  std::string sanitized;
  std::vector<ByteSpan> moved_spans;
  if (!IsValidUtf8(text)) {
    sanitized = SanitizeAround(text, client_spans, moved_spans);
    text = sanitized;
    client_spans = moved_spans;
  }
  Encoding out;
  const std::string_view bos = vocab_.Piece(bos_id_);
  const bool starts_with_bos = parse_special && text.starts_with(bos) &&
                               (client_spans.empty() || client_spans[0].begin >= bos.size());
  if (add_bos && !starts_with_bos) {
    out.ids.push_back(bos_id_);
    out.byte_offsets.push_back(0);
  }

  size_t segment_begin = 0;  // of the text since the last added token
  const auto end_segment = [&](size_t end) {
    bpe_.Encode(text.substr(segment_begin, end - segment_begin),
                static_cast<uint32_t>(segment_begin), out);
  };
  // Takes the added tokens of a stretch that no client wrote.
  const auto recognise = [&](size_t begin, size_t end) {
    const std::string_view stretch = text.substr(0, end);
    while (const auto added = added_tokens_.FindNext(stretch, begin)) {
      end_segment(added->start);
      out.ids.push_back(added->id);
      out.byte_offsets.push_back(static_cast<uint32_t>(added->start));
      begin = segment_begin = added->start + added->length;
    }
  };
  if (parse_special) {
    size_t ours = 0;  // where the stretch since the last client's bytes begins
    for (const ByteSpan& span : client_spans) {
      if (ours < span.begin) recognise(ours, span.begin);
      ours = span.end;
    }
    recognise(ours, text.size());
  }
  end_segment(text.size());
  return out;
}

}  // namespace tandem::server
