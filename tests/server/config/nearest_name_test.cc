#include "server/config/nearest_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tandem::server {
namespace {

const std::vector<std::string_view> kNames = {"serve",       "run",         "max-slots",
                                              "max-context", "grpc-listen", "http-listen"};

TEST(NearestNameTest, AMistypedNameFindsTheOneAtTheSmallestDistance) {
  EXPECT_EQ(NearestName("srve", kNames), "serve");
  EXPECT_EQ(NearestName("max-slot", kNames), "max-slots");
  EXPECT_EQ(NearestName("maxcontxt", kNames), "max-context");
  EXPECT_EQ(NearestName("rum", kNames), "run");
}

TEST(NearestNameTest, APartOfANameFindsTheShortestNameThatHasIt) {
  EXPECT_EQ(NearestName("context", kNames), "max-context");
  EXPECT_EQ(NearestName("listen", kNames), "grpc-listen");
}

TEST(NearestNameTest, NothingIsSuggestedForANameThatIsFarFromAll) {
  EXPECT_EQ(NearestName("temperature", kNames), "");
  EXPECT_EQ(NearestName("", kNames), "");
  EXPECT_EQ(NearestName("cut", kNames), "");  // only one of its letters is one of "run"
  EXPECT_EQ(NearestName(std::string(1000, 'x'), kNames), "");
}

}  // namespace
}  // namespace tandem::server
