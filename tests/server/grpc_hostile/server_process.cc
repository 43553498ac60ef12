#include "tests/server/grpc_hostile/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <sstream>

namespace tandem::server {
namespace {

constexpr size_t kLogLines = 400;

// The number after the last ':' of the word that starts with `key`; 0: no such word.
int PortIn(const std::string& line, const std::string& key) {
  const size_t begin = line.find(key);
  if (begin == std::string::npos) return 0;
  const size_t end = std::min(line.find(' ', begin), line.size());
  const size_t colon = line.rfind(':', end - 1);
  return colon == std::string::npos || colon < begin ? 0 : std::atoi(line.c_str() + colon + 1);
}

}  // namespace

ServerProcess::ServerProcess(const std::string& program,
                             const std::vector<std::string>& arguments) {
  std::array<int, 2> log_pipe;
  if (pipe2(log_pipe.data(), O_CLOEXEC) != 0) return;
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody else would end it
    const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(nowhere, STDIN_FILENO);
    dup2(nowhere, STDOUT_FILENO);
    dup2(log_pipe[1], STDERR_FILENO);
    if (getppid() == parent) execv(program.c_str(), argv.data());
    _exit(127);
  }
  close(log_pipe[1]);
  if (pid_ < 0) {
    close(log_pipe[0]);
    return;
  }
  std::promise<std::array<int, 2>> ports;
  std::future<std::array<int, 2>> known = ports.get_future();
  reader_ = std::thread([this, fd = log_pipe[0], &ports] {
    FILE* file = fdopen(fd, "r");
    char* line = nullptr;
    size_t capacity = 0;
    bool told = false;
    while (getline(&line, &capacity, file) > 0) {
      const std::string text = line;
      if (!told && text.find("ready") != std::string::npos && PortIn(text, "http=") != 0) {
        told = true;
        ports.set_value({PortIn(text, "grpc="), PortIn(text, "http=")});
      }
      const std::lock_guard lock(mutex_);
      log_.push_back(text);
      if (log_.size() > kLogLines) log_.pop_front();
    }
    if (!told) ports.set_value({0, 0});
    free(line);
    fclose(file);
  });
  const std::array<int, 2> both = known.get();
  grpc_port_ = both[0];
  http_port_ = both[1];
}

ServerProcess::~ServerProcess() {
  if (pid_ > 0 && !ended_) {
    kill(pid_, SIGKILL);
    Wait();
  }
  if (reader_.joinable()) reader_.join();
}

int ServerProcess::Wait() {
  if (!ended_ && waitpid(pid_, &status_, 0) == pid_) ended_ = true;
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
}

bool ServerProcess::Alive() {
  if (!ended_ && waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
  return !ended_;
}

int ServerProcess::Stop() {
  if (pid_ <= 0) return -1;
  if (Alive()) kill(pid_, SIGTERM);
  const int status = Wait();
  if (reader_.joinable()) reader_.join();
  return status;
}

std::string ServerProcess::Log() {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const std::string& line : log_) {
    if (line.find("request done") == std::string::npos) text += line;
  }
  return text;
}

int ServerProcess::OpenFiles() const {
  int count = 0;
  std::error_code error;
  const std::string folder = "/proc/" + std::to_string(pid_) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    count += entry.path().empty() ? 0 : 1;
  }
  return count;
}

double ServerProcess::Metric(std::string_view name, std::string_view label) {
  const int fd = ConnectTo(http_port_, 60);
  if (fd < 0) return -1;
  const std::string_view ask = "GET /metrics HTTP/1.0\r\n\r\n";
  std::string answer;
  if (send(fd, ask.data(), ask.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(ask.size())) {
    std::array<char, 65536> buffer;
    for (ssize_t n; (n = recv(fd, buffer.data(), buffer.size(), 0)) > 0;) {
      answer.append(buffer.data(), n);
    }
  }
  close(fd);
  double sum = -1;
  std::istringstream lines(answer);
  const std::string series = std::string(name) + "{";
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(series) || line.find(label) == std::string::npos) continue;
    sum = std::max(sum, 0.0) + std::atof(line.c_str() + line.rfind(' '));
  }
  return sum;
}

int ConnectTo(int port, int timeout_s) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const timeval timeout = {.tv_sec = timeout_s, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

}  // namespace tandem::server
