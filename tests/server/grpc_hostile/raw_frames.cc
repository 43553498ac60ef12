#include "tests/server/grpc_hostile/raw_frames.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "tests/server/grpc_hostile/server_process.h"

namespace tandem::server {
namespace {

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr int kData = 0, kHeaders = 1, kSettings = 4, kContinuation = 9;
constexpr int kEndStream = 1, kEndHeaders = 4;

void AppendBigEndian(std::string& out, uint32_t value, int bytes) {
  for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(value >> (8 * i));
}

std::string Frame(int type, int flags, uint32_t stream, const std::string& payload) {
  std::string frame;
  AppendBigEndian(frame, static_cast<uint32_t>(payload.size()), 3);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  AppendBigEndian(frame, stream, 4);
  return frame + payload;
}

// HPACK without table and Huffman code: RFC 7541, 6.2.2.
std::string Header(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

std::string CallHeaders() {
  return Header(":method", "POST") + Header(":scheme", "http") +
         Header(":path", "/tandem.v1.Generation/Generate") + Header(":authority", "localhost") +
         Header("content-type", "application/grpc") + Header("te", "trailers");
}

// A message as gRPC frames it.
std::string Framed(const std::string& message) {
  std::string out(1, '\0');
  AppendBigEndian(out, static_cast<uint32_t>(message.size()), 4);
  return out + message;
}

std::string Bytes(std::mt19937_64& random, size_t count) {
  std::string bytes(count, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

}  // namespace

std::string HostileBytes(std::mt19937_64& random, const std::string& message) {
  const auto below = [&](int end) { return static_cast<int>(random() % end); };
  const std::string start = std::string(kPreface) + Frame(kSettings, 0, 0, "");
  const std::string call = start + Frame(kHeaders, kEndHeaders, 1, CallHeaders()) +
                           Frame(kData, kEndStream, 1, Framed(message));
  switch (below(10)) {
    case 0:
      return Bytes(random, below(300));
    case 1:
      return std::string(kPreface).substr(0, below(24));
    case 2:
      return "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    case 3:
      return std::string("\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03", 11) + Bytes(random, 38);
    case 4: {  // frames of any kind
      std::string out = start;
      for (int i = below(12); i >= 0; --i) {
        out += Frame(below(12), below(256), below(6), Bytes(random, below(80)));
      }
      return out;
    }
    case 5: {  // a header list in pieces, cut off or without end
      std::string out = start + Frame(kHeaders, 0, 1, CallHeaders().substr(0, below(140)));
      for (int i = below(20); i >= 0; --i) {
        out += Frame(kContinuation, below(8) == 0 ? kEndHeaders : 0, 1,
                     below(2) == 0 ? Header("x-a", "b") : Bytes(random, below(40)));
      }
      return out;
    }
    case 6:
      return call.substr(0, below(static_cast<int>(call.size())));
    case 7: {  // a message whose length lies
      std::string body(1, static_cast<char>(below(3)));
      AppendBigEndian(body, static_cast<uint32_t>(random()), 4);
      return start + Frame(kHeaders, kEndHeaders, 1, CallHeaders()) +
             Frame(kData, below(2), 1, body + message);
    }
    default: {  // a good call with some bits the other way round
      std::string out = call;
      for (int i = 1 + below(6); i > 0; --i) {
        out[below(static_cast<int>(out.size()))] ^= static_cast<char>(1 << below(8));
      }
      return out;
    }
  }
}

bool HostileConnection(int port, std::mt19937_64& random, const std::string& message) {
  const int fd = ConnectTo(port, 60);
  if (fd < 0) return false;
  const std::string bytes = HostileBytes(random, message);
  send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);  // the server may have hung up already
  bool good = true;
  switch (random() % 4) {
    case 0: {
      const linger reset = {.l_onoff = 1, .l_linger = 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
      break;
    }
    case 1:
      break;
    default: {  // has said all; listens until the server hangs up
      shutdown(fd, SHUT_WR);
      std::array<char, 4096> buffer;
      ssize_t n;
      while ((n = recv(fd, buffer.data(), buffer.size(), 0)) > 0) continue;
      good = n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
    }
  }
  close(fd);
  return good;
}

}  // namespace tandem::server
