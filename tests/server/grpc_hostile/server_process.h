// The real program as a child process: starts, tells its ports and numbers, ends.
//
// Out       the address for gRPC; one number of /metrics; open descriptors; the exit status.
// Threads   one of its own reads what the child says; the methods belong to the test's thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace tandem::server {

class ServerProcess {
 public:
  // Runs `program` with `arguments` and waits until it says that it is ready.
  ServerProcess(const std::string& program, const std::vector<std::string>& arguments);
  ~ServerProcess();  // kills what still runs
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  bool ready() const { return http_port_ != 0; }  // false: it ended, Log() says why
  int grpc_port() const { return grpc_port_; }
  bool Alive();
  // The sum of the series of `name` whose labels contain `label`; -1: no such series, no answer.
  double Metric(std::string_view name, std::string_view label = "");
  int OpenFiles() const;
  // SIGTERM, then waits. The exit status, or minus the signal that ended it.
  int Stop();
  std::string Log();  // the last lines it wrote

 private:
  int Wait();

  pid_t pid_ = -1;
  bool ended_ = false;
  int status_ = 0;
  int grpc_port_ = 0;
  int http_port_ = 0;
  std::mutex mutex_;  // the field below
  std::deque<std::string> log_;
  std::thread reader_;
};

// A connection to a port of this machine with time-outs of `timeout_s`; -1 when there is none.
int ConnectTo(int port, int timeout_s);

}  // namespace tandem::server
