// `tandem chat --connect`: the answers of a server, over ChatStream.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/cli/chat_backend.h"

namespace tandem::server {

// A connection to one server. Members of `backend` are valid as long as it lives.
class RemoteChat {
 public:
  // Asks the server for its model.
  //   address  HOST:PORT
  //   errors   for people: nothing answers there, still loading, draining, no such method; with the
  //            server's reason word where it sent one
  static absl::StatusOr<std::unique_ptr<RemoteChat>> Connect(const std::string& address);
  ~RemoteChat();
  RemoteChat(const RemoteChat&) = delete;
  RemoteChat& operator=(const RemoteChat&) = delete;

  const ChatBackend& backend() const;

 private:
  struct Impl;
  explicit RemoteChat(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
