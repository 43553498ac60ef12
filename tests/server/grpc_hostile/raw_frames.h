// One hostile connection: bytes that are HTTP/2, nearly HTTP/2, or nothing like it.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace tandem::server {

// What a client writes on a new connection. `message` is a valid request of Generation/Generate.
std::string HostileBytes(std::mt19937_64& random, const std::string& message);

// Connects, writes, and ends: at once, with a reset, or politely.
//   returns  false when the server neither answered nor hung up within a minute of the polite end
bool HostileConnection(int port, std::mt19937_64& random, const std::string& message);

}  // namespace tandem::server
