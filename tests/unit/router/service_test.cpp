#include "services/router/service.hpp"

#include <gtest/gtest.h>

#include "tests/unit/router/fake_mesh.hpp"

namespace fulgur::router {
namespace {

using nlohmann::json;
using testing::Call;
using testing::FakeMesh;

/// The text of all chunks of choice `index`; checks that nothing follows its finish reason.
std::string joined(const std::vector<std::string>& events, int index, std::string& reason) {
  std::string text;
  for (const auto& event : events) {
    if (event == "[DONE]") continue;
    const json chunk = json::parse(event);
    for (const auto& choice : chunk["choices"]) {
      if (choice["index"] != index) continue;
      EXPECT_EQ(reason, "") << "a chunk follows the finish reason";
      if (choice.contains("text")) text += choice["text"].get<std::string>();
      if (choice.contains("delta")) text += choice["delta"].value("content", "");
      if (choice["finish_reason"].is_string()) reason = choice["finish_reason"];
    }
  }
  return text;
}

TEST(RouterService, AnswersACompletion) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"model":"fulgur-tiny","prompt":"Tell me","max_tokens":8,"seed":5,"temperature":0.5,
               "stop_token_ids":[77]})");
  const wire::Submit submit = mesh.submitted("shard-0");
  const auto prompt = *mesh.model().tokenizer()->encode("Tell me");
  EXPECT_EQ(submit.tokens, prompt);
  EXPECT_EQ(submit.prompt_tokens, prompt.size());
  EXPECT_EQ(submit.max_new_tokens, 8U);
  EXPECT_EQ(submit.sampling.seed, 5U);
  EXPECT_EQ(submit.sampling.temperature, 0.5F);
  EXPECT_EQ(submit.stop_ids, (std::vector<std::uint32_t>{1, 3, 77}));
  mesh.generate("shard-0", submit, 0, 8);
  mesh.finish("shard-0", submit.request, wire::FinishReason::length);
  EXPECT_EQ(call.status(), 200);
  const json body = call.json();
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fulgur-tiny");
  EXPECT_EQ(body["choices"][0]["text"], mesh.script_text(8));
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["prompt_tokens"], prompt.size());
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
  EXPECT_EQ(body["usage"]["total_tokens"], prompt.size() + 8);
}

TEST(RouterService, StreamsACompletionTokenByToken) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"prompt":[5,6],"max_tokens":30,"stream":true,
               "stream_options":{"include_usage":true}})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 1);
  const json first = json::parse(call.next_event());  // arrives before the second token exists
  EXPECT_EQ(first["choices"][0]["text"], mesh.script_text(1));
  EXPECT_TRUE(first["usage"].is_null());
  mesh.generate("shard-0", submit, 1, 29);
  const auto events = call.events();
  std::string reason;
  EXPECT_EQ(mesh.script_text(1) + joined(events, 0, reason), mesh.script_text(30));
  EXPECT_EQ(reason, "length");
  const json usage = json::parse(events.at(events.size() - 2));
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 30);
  EXPECT_EQ(usage["usage"]["prompt_tokens"], 2);
}

TEST(RouterService, ChatGoesThroughTheTemplate) {
  FakeMesh mesh;
  Call call(mesh, "/v1/chat/completions",
            R"({"messages":[{"role":"user","content":"hi <end_of_sentence>"}],"max_tokens":2,
               "stream":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  EXPECT_EQ(mesh.model().decode(submit.tokens, false),
            "<begin_of_document><beginning_of_sentence>user name=user\nhi <end_of_sentence>"
            "<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n");
  EXPECT_EQ(std::ranges::count(submit.tokens, 3U), 1);  // what the user typed is no control token
  mesh.generate("shard-0", submit, 0, 2);
  const auto events = call.events();
  EXPECT_EQ(json::parse(events[0])["object"], "chat.completion.chunk");
  EXPECT_EQ(json::parse(events[0])["choices"][0]["delta"]["role"], "assistant");
  std::string reason;
  EXPECT_EQ(joined(events, 0, reason), mesh.script_text(2));
}

TEST(RouterService, EndTokensStopWithoutText) {
  FakeMesh mesh;
  std::vector<std::uint32_t> script(mesh.script().begin(), mesh.script().begin() + 3);
  script.push_back(3);  // <end_of_sentence>
  mesh.set_script(script);
  Call call(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":50})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 4);
  const json body = call.json();
  EXPECT_EQ(body["choices"][0]["text"], mesh.script_text(3));
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
}

TEST(RouterService, AStopStringCutsTheTextAndCancels) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"prompt":"x","max_tokens":99,"stop":["river"],"stream":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 20);
  mesh.wait_for_cancel("shard-0", submit.request);
  mesh.finish("shard-0", submit.request, wire::FinishReason::cancelled);
  std::string reason;
  EXPECT_EQ(joined(call.events(), 0, reason),
            "Once upon a time there was a fox who lived by the ");
  EXPECT_EQ(reason, "stop");
}

TEST(RouterService, ChoicesInterleaveAndDrawFromTheirOwnSeeds) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"prompt":["a","b"],"n":2,"max_tokens":3,"seed":9,"stream":true})");
  std::vector<wire::Submit> submits;
  for (std::size_t i = 0; i < 4; ++i) submits.push_back(mesh.submitted("shard-0", i));
  EXPECT_EQ(submits[0].sampling.seed, 9U);
  EXPECT_EQ(submits[1].sampling.seed, choice_seed(9, 1));
  EXPECT_EQ(submits[2].sampling.seed, 9U);
  EXPECT_EQ(submits[0].tokens, submits[1].tokens);
  for (std::size_t token = 0; token < 3; ++token) {
    for (auto it = submits.rbegin(); it != submits.rend(); ++it) {
      mesh.generate("shard-0", *it, token, 1);
    }
  }
  const auto events = call.events();
  for (int index = 0; index < 4; ++index) {
    std::string reason;
    EXPECT_EQ(joined(events, index, reason), mesh.script_text(3));
    EXPECT_EQ(reason, "length");
  }
}

TEST(RouterService, ReportsLogprobsInBothForms) {
  FakeMesh mesh;
  Call completion(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":2,"logprobs":2})");
  const wire::Submit first = mesh.submitted("shard-0");
  EXPECT_TRUE(first.logprobs);
  EXPECT_EQ(first.top_logprobs, 2);
  mesh.generate("shard-0", first, 0, 2);
  const json logprobs = completion.json()["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"Once", " upon"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({-0.25, -0.25}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 4}));
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 3U);
  Call chat(mesh, "/v1/chat/completions",
            R"({"messages":[{"role":"user","content":"x"}],"max_tokens":1,"logprobs":true,
               "top_logprobs":1})");
  const wire::Submit second = mesh.submitted("shard-0", 1);
  mesh.generate("shard-0", second, 0, 1);
  const json content = chat.json()["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content[0]["token"], "Once");
  EXPECT_EQ(content[0]["bytes"], json({79, 110, 99, 101}));
  EXPECT_EQ(content[0]["top_logprobs"][0]["logprob"], -1.0);
}

TEST(RouterService, EchoesAndScoresThePrompt) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"prompt":"Once upon","echo":true,"logprobs":0,"max_tokens":0,
               "return_token_ids":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  EXPECT_TRUE(submit.prompt_logprobs);
  wire::Tokens tokens;
  for (std::uint32_t i = 0; i < submit.tokens.size(); ++i) {
    tokens.events.push_back({submit.request, i, submit.tokens[i], true, i == 0 ? 0.0F : -2.0F, {}});
  }
  mesh.shard("shard-0").send(tokens);
  mesh.finish("shard-0", submit.request, wire::FinishReason::length);
  const json choice = call.json()["choices"][0];
  EXPECT_EQ(choice["text"], "Once upon");
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], json({nullptr, -2.0}));
  EXPECT_EQ(choice["logprobs"]["text_offset"], json({0, 4}));
  EXPECT_EQ(choice["prompt_token_ids"], json(submit.tokens));
}

// A long prompt's log-probabilities come chunk by chunk of its prefill; clients expect them at once.
TEST(RouterService, AStreamBeginsWithTheScoresOfTheWholePrompt) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions",
            R"({"prompt":"Once upon a time","echo":true,"logprobs":0,"max_tokens":1,"stream":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  ASSERT_GT(submit.tokens.size(), 2U);
  for (std::uint32_t i = 0; i < submit.tokens.size(); ++i) {
    const float logprob = i == 0 ? 0.0F : -2.0F;
    mesh.shard("shard-0").send(
        wire::Tokens{{{submit.request, i, submit.tokens[i], true, logprob, {}}}});
  }
  mesh.generate("shard-0", submit, 0, 1);
  mesh.finish("shard-0", submit.request, wire::FinishReason::length);
  const auto events = call.events();
  const json choice = json::parse(events.at(0))["choices"][0];
  EXPECT_TRUE(choice["text"].get<std::string>().starts_with("Once upon a time"));
  std::vector<json> scores;
  for (const auto& event : events) {
    if (event == "[DONE]") continue;
    const json logprobs = json::parse(event)["choices"][0]["logprobs"];
    if (logprobs.is_object()) scores.push_back(logprobs["token_logprobs"]);
  }
  ASSERT_FALSE(scores.empty());
  EXPECT_GE(scores[0].size(), submit.tokens.size());
  std::size_t count = 0;
  for (const json& piece : scores) count += piece.size();
  EXPECT_EQ(count, submit.tokens.size() + 1);
}

TEST(RouterService, UnseededRequestsDiffer) {
  FakeMesh mesh;
  Call first(mesh, "/v1/completions", R"({"prompt":"x"})");
  Call second(mesh, "/v1/completions", R"({"prompt":"x"})");
  EXPECT_NE(mesh.submitted("shard-0", 0).sampling.seed, mesh.submitted("shard-0", 1).sampling.seed);
}

TEST(RouterService, CancelsWhenTheClientHangsUp) {
  FakeMesh mesh;
  for (const char* stream : {"true", "false"}) {
    Call call(mesh, "/v1/completions",
              fmt::format(R"({{"prompt":"x","max_tokens":50,"n":2,"stream":{}}})", stream));
    const std::size_t seen = mesh.shard("shard-0").heard<wire::Cancel>().size();
    const wire::Submit first = mesh.submitted("shard-0", seen);
    const wire::Submit second = mesh.submitted("shard-0", seen + 1);
    mesh.generate("shard-0", first, 0, 2);
    call.hang_up();
    mesh.wait_for_cancel("shard-0", first.request);
    mesh.wait_for_cancel("shard-0", second.request);
  }
  mesh.wait_until([&] { return mesh.service().metrics().running.Value() == 0; });
}

TEST(RouterService, TokenisesAndBack) {
  FakeMesh mesh;
  const auto ids = *mesh.model().tokenizer()->encode("Once upon a time");
  const json tokens =
      Call(mesh, "/tokenize", R"({"prompt":"Once upon a time","return_token_strs":true})").json();
  EXPECT_EQ(tokens["tokens"], json(ids));
  EXPECT_EQ(tokens["count"], ids.size());
  EXPECT_EQ(tokens["token_strs"][0], "Once");
  const json text =
      Call(mesh, "/detokenize", fmt::format(R"({{"tokens":{}}})", tokens["tokens"].dump())).json();
  EXPECT_EQ(text["prompt"], "Once upon a time");
}

TEST(RouterService, ListsItsModelAndServesThePage) {
  FakeMesh mesh;
  const json models = Call(mesh, "/v1/models", "").json();
  EXPECT_EQ(models["data"][0]["id"], "fulgur-tiny");
  EXPECT_EQ(Call(mesh, "/v1/models/fulgur-tiny", "").json()["object"], "model");
  EXPECT_EQ(Call(mesh, "/v1/models/other", "").json()["error"]["code"], "model_not_found");
  EXPECT_NE(Call(mesh, "/", "").head().find("text/html"), std::string::npos);
  EXPECT_EQ(Call(mesh, "/readyz", "").status(), 200);
  EXPECT_EQ(Call(mesh, "/healthz", "").status(), 200);
  EXPECT_EQ(Call(mesh, "/metrics", "").status(), 200);
}

TEST(RouterService, RegistersAndSendsHeartbeats) {
  FakeMesh mesh;
  const wire::Register& registration = mesh.orchestrator().heard<wire::Register>().at(0);
  EXPECT_EQ(registration.kind, wire::ServiceKind::router);
  EXPECT_EQ(registration.name, "router-0");
  EXPECT_EQ(registration.model_fingerprint, mesh.model().fingerprint());
  EXPECT_NE(registration.admin_endpoint, "");
  auto& beats = mesh.orchestrator().heard<wire::Heartbeat>();
  mesh.wait_until([&] { return !beats.empty() && beats.back().epoch == 1; });
  // An orchestrator that has restarted does not know the router any more.
  mesh.orchestrator().send(wire::Ack{1, Code::not_found, "who are you", 1});
  mesh.wait_until([&] { return mesh.orchestrator().heard<wire::Register>().size() == 2; });
}

TEST(RouterService, DrainLetsStreamsFinish) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":3,"stream":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 1);
  call.next_event();
  bool finished = false;
  std::thread drain([&] { finished = mesh.service().drain(20 * kSecond); });
  // The orchestrator hears of it at once: what ends after this is no loss.
  mesh.wait_until([&] { return mesh.orchestrator().heard<wire::Register>().back().draining; });
  mesh.generate("shard-0", submit, 1, 2);
  EXPECT_EQ(call.events().back(), "[DONE]");
  drain.join();
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace fulgur::router
