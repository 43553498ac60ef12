#include "server/grpc/digest.h"

#include <openssl/sha.h>

#include <array>

#include "absl/strings/escaping.h"

namespace tandem::server {

std::string ShortDigest(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), 8));
}

}  // namespace tandem::server
