#include "server/text/detokenizer.h"

#include <string_view>

#include "server/text/utf8.h"

namespace tandem::server {
namespace {

// Whether `id` leaves no trace in text.
bool IsSilent(const Tokenizer& tokenizer, int32_t id, bool skip_special) {
  return !tokenizer.vocabulary().Contains(id) || (skip_special && tokenizer.IsSpecial(id));
}

void AppendReplacements(size_t count, std::string& text) {
  for (size_t i = 0; i < count; ++i) text.append(kReplacementCharacter);
}

}  // namespace

std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special) {
  const Vocabulary& vocab = tokenizer.vocabulary();
  std::string text;
  std::string run;  // of byte tokens
  const auto end_run = [&] {
    if (IsValidUtf8(run)) {
      text.append(run);
    } else {
      AppendReplacements(run.size(), text);
    }
    run.clear();
  };
  for (const int32_t id : ids) {
    if (IsSilent(tokenizer, id, skip_special)) continue;
    if (vocab.IsByte(id)) {
      run.append(vocab.Bytes(id));
    } else {
      end_run();
      text.append(vocab.Bytes(id));
    }
  }
  end_run();
  return text;
}

std::string StreamDetokenizer::Push(int32_t id) {
  if (IsSilent(*tokenizer_, id, skip_special_)) return "";
  const std::string_view bytes = tokenizer_->vocabulary().Bytes(id);
  if (!tokenizer_->vocabulary().IsByte(id)) return Finish().append(bytes);

  pending_.append(bytes);
  std::string text;
  size_t taken = 0;
  while (taken < pending_.size()) {
    const Utf8Prefix front = ClassifyUtf8(std::string_view(pending_).substr(taken));
    if (front.state == Utf8State::kIncomplete) break;
    if (front.state == Utf8State::kComplete) {
      text.append(pending_, taken, front.length);
      taken += front.length;
    } else {
      text.append(kReplacementCharacter);
      taken += 1;
    }
  }
  pending_.erase(0, taken);
  return text;
}

std::string StreamDetokenizer::Finish() {
  std::string text;
  AppendReplacements(pending_.size(), text);
  pending_.clear();
  return text;
}

}  // namespace tandem::server
