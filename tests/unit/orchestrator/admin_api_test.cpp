// What admin commands accept, and the HTTP status of what they refuse.
#include "services/orchestrator/admin_api.hpp"

#include <gtest/gtest.h>

namespace fulgur::orchestrator {
namespace {

using Names = std::vector<std::string>;

TEST(AdminApi, TakesOneNameOrMany) {
  EXPECT_EQ(*parse_names(R"({"name":"expert-0"})"), Names{"expert-0"});
  EXPECT_EQ(*parse_names(R"({"names":["a","b"]})"), (Names{"a", "b"}));
}

TEST(AdminApi, SaysWhatIsWrongWithABody) {
  const std::pair<const char*, const char*> kBad[] = {
      {"", "the body is not a JSON object"},
      {"[]", "the body is not a JSON object"},
      {"{", "the body is not a JSON object"},
      {"{}", "0 names are given, 1 to 4096 are possible"},
      {R"({"names":[]})", "0 names are given, 1 to 4096 are possible"},
      {R"({"names":"a"})", "field names is not known: give name or names"},
      {R"({"nam":"a"})", "field nam is not known: give name or names"},
      {R"({"name":7})", "a name must be a string that is not empty"},
      {R"({"name":""})", "a name must be a string that is not empty"},
      {R"({"names":["a",null]})", "a name must be a string that is not empty"},
  };
  for (const auto& [body, why] : kBad) {
    const auto names = parse_names(body);
    EXPECT_EQ(names.status().code(), Code::invalid_argument) << body;
    EXPECT_EQ(names.status().message(), why) << body;
  }
}

TEST(AdminApi, StatusesTellRefusalsApart) {
  EXPECT_EQ(http_status(Code::invalid_argument), 400);
  EXPECT_EQ(http_status(Code::not_found), 404);
  EXPECT_EQ(http_status(Code::failed_precondition), 409);
  EXPECT_EQ(http_status(Code::unavailable), 503);
}

}  // namespace
}  // namespace fulgur::orchestrator
