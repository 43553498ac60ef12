// "Did you mean": the known name that is closest to one that is not known.
#pragma once

#include <span>
#include <string_view>

namespace tandem::server {

// The name among `known` at the smallest edit distance, if that is at most 2 (1 for names of up to
// three letters); otherwise the shortest that has `name` (3 letters or more) as a part; otherwise
// empty. Ties go to the first.
std::string_view NearestName(std::string_view name, std::span<const std::string_view> known);

}  // namespace tandem::server
