#include "server/http/http_server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "CivetServer.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tandem::server {
namespace {

constexpr char kJson[] = "application/json";
constexpr char kText[] = "text/plain; charset=utf-8";
constexpr char kMetrics[] = "text/plain; version=0.0.4; charset=utf-8";

struct Reply {
  int code = 200;
  const char* type = kJson;
  std::string body;
};

const char* ReasonPhrase(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

class Pages : public CivetHandler {
 public:
  Pages(const HttpConfig& config, HealthState& health, Metrics& metrics)
      : version_(
            nlohmann::json{{"version", config.version}, {"git_commit", config.git_commit}}.dump()),
        health_(health),
        metrics_(metrics) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    return Send(connection, Answer(mg_get_request_info(connection)->local_uri), true);
  }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    return Send(connection, Answer(mg_get_request_info(connection)->local_uri), false);
  }
  bool handlePost(CivetServer*, mg_connection* c) override { return RefuseMethod(c); }
  bool handlePut(CivetServer*, mg_connection* c) override { return RefuseMethod(c); }
  bool handleDelete(CivetServer*, mg_connection* c) override { return RefuseMethod(c); }
  bool handleOptions(CivetServer*, mg_connection* c) override { return RefuseMethod(c); }
  bool handlePatch(CivetServer*, mg_connection* c) override { return RefuseMethod(c); }

 private:
  Reply Answer(std::string_view path) {
    if (path == "/metrics") return {.type = kMetrics, .body = metrics_.Render(health_)};
    if (path == "/livez") return Probe(health_.Live());
    if (path == "/readyz") return Probe(health_.Ready());
    if (path == "/version") return {.body = version_};
    return {.code = 404,
            .type = kText,
            .body =
                "This port serves GET /metrics, /livez, /readyz and /version. The model is "
                "served over gRPC, on another port.\n"};
  }

  Reply Probe(bool good) {
    const Phase phase = health_.phase();
    // A ready process that fails a probe has an engine that stands still.
    const bool stalled = !good && phase == Phase::kReady;
    nlohmann::json body = {{"status", stalled ? "stalled" : PhaseName(phase)}};
    if (phase == Phase::kLoading) body["progress"] = health_.progress();
    return {.code = good ? 200 : 503, .body = body.dump()};
  }

  static bool RefuseMethod(mg_connection* connection) {
    return Send(connection, {.code = 405, .type = kText, .body = "Only GET and HEAD.\n"}, true);
  }

  static bool Send(mg_connection* connection, const Reply& reply, bool with_body) {
    std::string out = absl::StrCat(
        "HTTP/1.1 ", reply.code, " ", ReasonPhrase(reply.code), "\r\nContent-Type: ", reply.type,
        "\r\nContent-Length: ", reply.body.size(), "\r\nCache-Control: no-store\r\n",
        reply.code == 405 ? "Allow: GET, HEAD\r\n" : "", "\r\n");
    if (with_body) out += reply.body;
    mg_write(connection, out.data(), out.size());
    return true;
  }

  const std::string version_;
  HealthState& health_;
  Metrics& metrics_;
};

// Connects to a port of this machine and hangs up. An address that is not reached this way only
// costs time.
void Knock(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  close(fd);
}

// "host:port" with a port 0..65535.
bool IsListenAddress(std::string_view listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  const std::string_view host = listen.substr(0, colon), port = listen.substr(colon + 1);
  if (host.find_first_of(", \t") != std::string_view::npos) return false;
  if (host.find(':') != std::string_view::npos) return false;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  return error == std::errc() && end == port.data() + port.size() && number <= 65535;
}

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpConfig& config, HealthState& health, Metrics& metrics)
      : pages(config, health, metrics) {}

  Pages pages;
  mutable std::mutex mutex;
  mutable std::string complaint;  // the first thing civetweb logged; guarded by mutex
  std::unique_ptr<CivetServer> server;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpConfig& config,
                                                              HealthState& health,
                                                              Metrics& metrics) {
  if (config.listen.starts_with('[')) {  // the distribution builds civetweb without IPv6
    return absl::InvalidArgumentError(
        absl::StrCat(config.listen, " is an IPv6 address; this port takes IPv4 only, such as ",
                     "127.0.0.1:8080"));
  }
  if (!IsListenAddress(config.listen)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", config.listen, "\" is no address; give host:port, such as 0.0.0.0:8080"));
  }
  auto impl = std::make_unique<Impl>(config, health, metrics);
  // civetweb wants numeric addresses.
  std::string listen = config.listen;
  if (listen.starts_with("localhost:")) listen.replace(0, 9, "127.0.0.1");
  const std::vector<std::string> options = {
      "listening_ports",       listen,
      "num_threads",           std::to_string(std::max(1, config.threads)),
      "request_timeout_ms",    "5000",
      "enable_keep_alive",     "yes",
      "keep_alive_timeout_ms", "2000",
      "tcp_nodelay",           "1"};
  CivetCallbacks callbacks;
  callbacks.log_message = [](const mg_connection* connection, const char* message) {
    const auto* server = static_cast<CivetServer*>(mg_get_user_data(mg_get_context(connection)));
    const auto* self = static_cast<const Impl*>(server->getUserContext());
    const std::lock_guard lock(self->mutex);
    if (self->complaint.empty()) self->complaint = message;
    return 1;  // handled: nothing on stderr
  };
  try {
    impl->server = std::make_unique<CivetServer>(options, &callbacks, impl.get());
  } catch (const std::exception&) {  // its own text says no more than that it failed
    const std::lock_guard lock(impl->mutex);
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", config.listen, ": ",
        impl->complaint.empty() ? "the address is in use or not ours" : impl->complaint,
        "; stop the other process or choose another port"));
  }
  impl->server->addHandler("**", impl->pages);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// civetweb looks every two seconds whether it is to stop, and whenever somebody connects.
HttpServer::~HttpServer() {
  const int port = this->port();
  std::atomic<bool> closed = false;
  std::thread closing([&] {
    impl_->server->close();
    closed = true;
  });
  while (!closed) {
    Knock(port);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  closing.join();
}

int HttpServer::port() const { return impl_->server->getListeningPorts().at(0); }

}  // namespace tandem::server
