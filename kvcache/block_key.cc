#include "kvcache/block_key.h"

#include <openssl/sha.h>

#include <string>

namespace tandem::kvcache {
namespace {

// Little-endian, on every machine.
template <typename T>
void AppendInteger(T value, std::string& bytes) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

void AppendText(std::string_view text, std::string& bytes) {
  AppendInteger(uint64_t{text.size()}, bytes);
  bytes.append(text);
}

BlockKey Sha256(std::string_view bytes) {
  BlockKey key;
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), key.data());
  return key;
}

}  // namespace

BlockKey RootKey(std::string_view salt, std::string_view formats) {
  std::string bytes = "root";
  AppendText(salt, bytes);
  AppendText(formats, bytes);
  return Sha256(bytes);
}

BlockKey ChildKey(const BlockKey& parent, std::span<const int32_t> tokens) {
  std::string bytes = "next";
  bytes.reserve(bytes.size() + parent.size() + sizeof(uint64_t) + tokens.size_bytes());
  bytes.append(reinterpret_cast<const char*>(parent.data()), parent.size());
  AppendInteger(uint64_t{tokens.size()}, bytes);
  for (const int32_t token : tokens) AppendInteger(static_cast<uint32_t>(token), bytes);
  return Sha256(bytes);
}

}  // namespace tandem::kvcache
