#include "server/text/added_tokens.h"

namespace tandem::server {
namespace {

uint64_t EdgeKey(uint32_t node, char byte) {
  return uint64_t{node} << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

void AddedTokens::Add(std::string_view text, int32_t id) {
  starts_token_[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto [edge, inserted] = edges_.try_emplace(EdgeKey(node, byte), num_nodes_);
    if (inserted) ++num_nodes_;
    node = edge->second;
  }
  token_at_[node] = id;
}

std::optional<AddedTokens::Match> AddedTokens::FindNext(std::string_view text, size_t from) const {
  for (size_t start = from; start < text.size(); ++start) {
    if (!starts_token_[static_cast<unsigned char>(text[start])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t end = start; end < text.size(); ++end) {
      const auto edge = edges_.find(EdgeKey(node, text[end]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (const auto token = token_at_.find(node); token != token_at_.end()) {
        longest = {.start = start, .length = end + 1 - start, .id = token->second};
      }
    }
    if (longest.has_value()) return longest;
  }
  return std::nullopt;
}

}  // namespace tandem::server
