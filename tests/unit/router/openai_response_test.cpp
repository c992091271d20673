#include "services/router/openai_response.hpp"

#include <gtest/gtest.h>

namespace fulgur::router {
namespace {

TEST(OpenAiResponse, FramesEventsAndNeverBreaksTheLine) {
  auto model = ServedModel::load({.directory = FULGUR_SOURCE_DIR "/models/fulgur-tiny",
                                  .served_name = "org/tiny"});
  ASSERT_TRUE(model.is_ok());
  auto request = std::make_shared<GenerationRequest>();
  request->max_tokens = 5;
  const OpenAiResponse response(request, *model, "cmpl-1", 1700000000);
  Choice choice(request, *model, std::make_shared<const TokenIds>(TokenIds{5}), 0, 1);
  Delta delta;
  delta.text = "a\n\nb\"\xff";
  EXPECT_EQ(response.chunk(0, choice, delta, true),
            "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,"
            "\"model\":\"org/tiny\",\"choices\":[{\"index\":0,\"text\":\"a\\n\\nb\\\"\xef\xbf\xbd\","
            "\"logprobs\":null,\"finish_reason\":null}]}\n\n");
  EXPECT_EQ(OpenAiResponse::error_chunk("{}"), "data: {}\n\n");
}

TEST(ApiError, BodiesNameWhatIsKnown) {
  EXPECT_EQ(bad_field("top_p", "no").body(),
            R"({"error":{"message":"no","type":"invalid_request_error","param":"top_p","code":null}})");
  EXPECT_EQ(from_status({Code::resource_exhausted, "x"}).status, 429);
  EXPECT_EQ(from_status({Code::unavailable, "x"}).status, 503);
  EXPECT_EQ(from_status({Code::deadline_exceeded, "x"}).status, 504);
  EXPECT_EQ(from_status({Code::internal, "x"}).status, 500);
  EXPECT_EQ(from_http(413, "x").code, "body_too_large");
}

}  // namespace
}  // namespace fulgur::router
