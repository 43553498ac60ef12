#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace tandem::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Everything the server answers to `request`, until it closes the connection.
std::string Exchange(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "no server";
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

// One server for all tests: civetweb takes up to two seconds to stop.
class HttpServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const HttpConfig config = {
        .listen = "127.0.0.1:0", .threads = 2, .version = "1.2\"3", .git_commit = "abc"};
    health_ = new HealthState;
    metrics_ = new Metrics("demo");
    auto server = HttpServer::Start(config, *health_, *metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = server->release();
  }
  static void TearDownTestSuite() {
    delete server_;
    delete metrics_;
    delete health_;
  }
  std::string Request(const std::string& method, const std::string& path) {
    return Exchange(
        server_->port(),
        absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  }
  std::string Get(const std::string& path) { return Request("GET", path); }

  static HealthState* health_;
  static Metrics* metrics_;
  static HttpServer* server_;
};

HealthState* HttpServerTest::health_ = nullptr;
Metrics* HttpServerTest::metrics_ = nullptr;
HttpServer* HttpServerTest::server_ = nullptr;

TEST_F(HttpServerTest, MetricsComeInPrometheusTextFormat) {
  const std::string answer = Get("/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(answer, HasSubstr("# TYPE vllm:num_requests_waiting gauge"));
}

TEST_F(HttpServerTest, ProbesFollowTheHealthState) {
  health_->SetProgress(0.25);
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/readyz"), EndsWith("{\"progress\":0.25,\"status\":\"loading\"}"));
  health_->SetPhase(Phase::kReady);
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200"));
  health_->SetPhase(Phase::kDraining);
  EXPECT_THAT(Get("/readyz"), EndsWith("{\"status\":\"draining\"}"));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, VersionIsJson) {
  const std::string answer = Get("/version");
  const auto json = nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
  EXPECT_EQ(json["version"], "1.2\"3");
  EXPECT_EQ(json["git_commit"], "abc");
}

TEST_F(HttpServerTest, AnyOtherPathSaysWhatThereIs) {
  // A path below a known one included, and /health, which gateways take for a sign that the model
  // is served over HTTP.
  for (const char* path : {"/", "/health", "/metrics/router", "/v1/models"}) {
    const std::string answer = Get(path);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 404")) << path;
    EXPECT_THAT(answer, HasSubstr("/metrics, /livez, /readyz and /version")) << path;
  }
}

TEST_F(HttpServerTest, OnlyReadingIsAllowed) {
  EXPECT_THAT(Request("POST", "/metrics"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Request("HEAD", "/version"), EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, GarbageGetsAnAnswerAndTheServerLivesOn) {
  EXPECT_THAT(Exchange(server_->port(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
              ::testing::Not(StartsWith("HTTP/1.1 2")));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ABusyPortIsAnErrorThatNamesIt) {
  const std::string taken = absl::StrCat("127.0.0.1:", server_->port());
  const auto second = HttpServer::Start({.listen = taken}, *health_, *metrics_);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
}

TEST_F(HttpServerTest, AnAddressThatIsNoneIsRefused) {
  for (const char* listen : {"", "8080", "127.0.0.1", "127.0.0.1:", ":80", "a:b", "h:65536", "h:-1",
                             "::1:80", "[::1]:80", "1.2.3.4:80,1.2.3.4:81"}) {
    const auto server = HttpServer::Start({.listen = listen}, *health_, *metrics_);
    EXPECT_TRUE(absl::IsInvalidArgument(server.status())) << listen;
  }
}

}  // namespace
}  // namespace tandem::server
