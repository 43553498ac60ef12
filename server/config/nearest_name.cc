#include "server/config/nearest_name.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace tandem::server {
namespace {

// Levenshtein distance: insertions, deletions and substitutions.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1] ? 1 : 0);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string_view NearestName(std::string_view name, std::span<const std::string_view> known) {
  constexpr size_t kLongest = 64;  // nobody mistypes a name of that length
  if (name.empty() || name.size() > kLongest) return {};
  size_t smallest = (name.size() <= 3 ? 1 : 2) + 1;
  std::string_view nearest;
  for (const std::string_view candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < smallest) {
      smallest = distance;
      nearest = candidate;
    }
  }
  if (!nearest.empty() || name.size() < 3) return nearest;
  for (const std::string_view candidate : known) {
    const bool has_part = candidate.find(name) != std::string_view::npos;
    if (has_part && (nearest.empty() || candidate.size() < nearest.size())) nearest = candidate;
  }
  return nearest;
}

}  // namespace tandem::server
