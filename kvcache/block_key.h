// What a full block of a prefix holds, as one key: SHA-256 chained over parent, tokens, salt and
// formats. Two blocks with equal keys hold the same rows; nobody keeps the tokens to compare.
//
// Every part of variable length is preceded by its length, so no two inputs are hashed as the same
// bytes, and roots are never mistaken for children.
//
// Not here  who holds which key (block_pool.h).
// Threads   any.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace tandem::kvcache {

using BlockKey = std::array<uint8_t, 32>;

// The parent of a sequence's first block.
//   salt     sequences of different salts share nothing
//   formats  whatever else the bytes of a row depend on: FormatVector (kv_formats.h)
BlockKey RootKey(std::string_view salt, std::string_view formats);

// The key of the block with `tokens` behind the block (or root) with `parent`.
BlockKey ChildKey(const BlockKey& parent, std::span<const int32_t> tokens);

}  // namespace tandem::kvcache
