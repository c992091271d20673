// The search: what it never does, what it says when there is no plan, and one plan's text.
#include "cli/planner/plan.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/planner/report.hpp"

namespace fulgur::planner {
namespace {

Request request_for(const char* profile, std::uint32_t devices) {
  Request request;
  request.model = find_shape("M1").value();
  request.profile = find_profile(profile).value();
  request.devices = devices;
  return request;
}

double best_rate(const Request& request) {
  const Outcome outcome = make_plans(request);
  return outcome.plans.empty() ? 0 : outcome.plans.front().tokens_per_s;
}

TEST(Plan, KeepsWhatWasAskedFor) {
  for (const char* profile : {"h100", "h200", "h20"}) {
    const Request request = request_for(profile, 32);
    const Outcome outcome = make_plans(request);
    ASSERT_FALSE(outcome.plans.empty()) << profile;
    for (const Plan& plan : outcome.plans) {
      EXPECT_LE(plan.tpot, 50e-3);
      EXPECT_LE(plan.sequences, plan.memory.sequences_max);
      EXPECT_LE(plan.split.devices(), 32U);
      EXPECT_LE(plan.tokens_per_s, outcome.plans.front().tokens_per_s);
      EXPECT_LE(plan.tokens_per_s_alone, plan.tokens_per_s * (1 + 1e-9));
      const auto worker = static_cast<double>(plan.memory.worker.device());
      EXPECT_GT(worker, 0);
      EXPECT_LE(plan.memory.experts + worker, plan.memory.usable);
      const auto a_shard = static_cast<double>(plan.memory.sequence.sum()) *
                           static_cast<double>(plan.sequences / plan.split.attention);
      const auto shard = static_cast<double>(plan.memory.shard.device());
      EXPECT_GT(shard, 0);
      EXPECT_LE(plan.memory.attention + a_shard + shard, plan.memory.usable);
      EXPECT_NEAR(plan.tokens_per_s, static_cast<double>(plan.sequences) / plan.tpot, 1e-6);
    }
  }
}

TEST(Plan, MoreDevicesNeverLowerIt) {
  for (const char* profile : {"h100", "h200"}) {
    double before = 0;
    for (const std::uint32_t devices : {8U, 9U, 12U, 16U, 17U, 18U, 20U, 24U, 25U, 33U, 40U, 64U}) {
      Request request = request_for(profile, devices);
      request.spare = 0;
      const double rate = best_rate(request);
      EXPECT_GE(rate, before) << devices << " x " << profile;
      before = rate;
    }
    EXPECT_GT(before, 0);
  }
}

TEST(Plan, LongerContextsAndTighterTimesNeverRaiseIt) {
  for (const std::uint32_t devices : {20U, 40U}) {
    double before = 1e30;
    for (const double context : {1.0, 512.0, 8192.0, 16384.0, 65536.0, 262144.0, 1e6}) {
      Request request = request_for("h100", devices);
      request.context = context;
      EXPECT_LE(best_rate(request), before) << context;
      before = best_rate(request);
    }
    before = 1e30;
    for (const double tpot : {200.0, 100.0, 70.0, 50.0, 45.0, 40.0, 30.0, 5.0}) {
      Request request = request_for("h100", devices);
      request.tpot_ms = tpot;
      EXPECT_LE(best_rate(request), before) << tpot;
      before = best_rate(request);
    }
    EXPECT_EQ(before, 0) << "no H100 reads these weights in 5 ms";
  }
}

TEST(Plan, PromptsInTheSameStepsCost) {
  Request request = request_for("h200", 24);
  const double alone = best_rate(request);
  request.prompt = 4096;
  request.output = 1024;
  const double with = best_rate(request);
  EXPECT_GT(with, 0);
  EXPECT_LT(with, alone);
}

TEST(Plan, GivenSequencesAndSplitAreNotSearched) {
  Request request = request_for("h100", 24);
  request.split = Split{8, 16, false};
  request.micro_batches = 1;
  request.sequences = 8;
  request.tpot_ms = 1;
  const Outcome outcome = make_plans(request);
  ASSERT_EQ(outcome.plans.size(), 1U);
  EXPECT_EQ(outcome.plans[0].sequences, 8U);
  EXPECT_GT(outcome.plans[0].tpot, 1e-3);
  // With one micro-batch of one row a step is the plain sum of its stages.
  const Plan& plan = outcome.plans[0];
  const auto sum = [](const StageTimes& stage) {
    return stage.attention + stage.out + stage.out_latency + stage.experts + stage.back +
           stage.back_latency;
  };
  EXPECT_NEAR(plan.tpot, 70 * sum(plan.lightning) + 10 * sum(plan.softmax) + plan.head, 1e-12);
  request.sequences = 100'000;
  EXPECT_EQ(make_plans(request).why_not, "memory has room for 280 sequences");
}

TEST(Plan, SaysWhyThereIsNone) {
  const Outcome eight = make_plans(request_for("h100", 8));
  EXPECT_FALSE(eight.feasible());
  EXPECT_NE(eight.why_not.find("at least 16 expert devices, 13 without spare"), std::string::npos);
  EXPECT_FALSE(eight.why_not_colocated.empty());
  Request hurried = request_for("h100", 24);
  hurried.tpot_ms = 10;
  const std::string why = make_plans(hurried).why_not;
  EXPECT_EQ(why.rfind("experts need", 0), std::string::npos) << why;
  EXPECT_NE(why.find("ms a token, above 10"), std::string::npos) << why;
  Request one = request_for("h100", 1);
  EXPECT_EQ(make_plans(one).why_not, "one device cannot be divided into two pools");
  one.model = find_shape("M1-4-layers").value();
  EXPECT_EQ(make_plans(one).colocated.size(), 1U);
}

TEST(Plan, BadRequestsAreOneLine) {
  const auto message = [](auto change) {
    Request request = request_for("h100", 24);
    change(request);
    const Status status = check(request);
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    return status.message();
  };
  EXPECT_TRUE(check(request_for("h100", 1)).is_ok());
  EXPECT_EQ(message([](Request& r) { r.devices = 0; }), "--gpus must be at least 1");
  EXPECT_EQ(message([](Request& r) { r.tpot_ms = -1; }), "--tpot must be above 0");
  EXPECT_EQ(message([](Request& r) { r.context = 2e7; }),
            "--context 20000000: M1 has 10240000 positions");
  EXPECT_EQ(message([](Request& r) { r.prompt = 1e6; }), "--prompt must not exceed --context");
  EXPECT_EQ(message([](Request& r) {
              r.split = Split{20, 20, false};
            }),
            "--split needs 40 devices and --gpus gives 24");
}

TEST(Plan, TextStays) {
  const Request request = request_for("h100", 24);
  const std::string text = to_text(request, make_plans(request), 2);
  const char* const path = FULGUR_SOURCE_DIR "/tests/golden/plan/m1-24-h100.txt";
  std::ostringstream expected;
  expected << std::ifstream(path).rdbuf();
  EXPECT_EQ(text, expected.str()) << "write it again when the change is meant: ./fulgur plan "
                                     "--gpus 24 --alternatives 2 > "
                                  << path;
}

TEST(Plan, JsonIsWhatTheTextSays) {
  const Request request = request_for("h100", 24);
  const Outcome outcome = make_plans(request);
  const auto json = nlohmann::json::parse(to_json(request, outcome, 1));
  EXPECT_EQ(json["plans"].size(), 2U);
  EXPECT_EQ(json["plans"][0]["sequences"], outcome.plans[0].sequences);
  EXPECT_EQ(json["request"]["sequence"]["state_bytes"], 293'601'280);
  EXPECT_EQ(json["feasible"], true);
  const auto& working = json["plans"][0]["memory"]["working"];
  EXPECT_EQ(working["experts"]["device_bytes"], 1'547'781'632U);
  EXPECT_EQ(working["attention"]["device_bytes"], outcome.plans[0].memory.shard.device());
  EXPECT_TRUE(json.contains("why_not_colocated"));
}

/// Exit code and output of the built program.
std::pair<int, std::string> run_plan(const std::string& arguments) {
  const std::string command = FULGUR_BINARY_DIR "/fulgur plan " + arguments + " 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  while (const std::size_t count = fread(buffer, 1, sizeof buffer, pipe))
    text.append(buffer, count);
  return {WEXITSTATUS(pclose(pipe)), text};
}

TEST(PlanCommand, ExitCodes) {
  EXPECT_EQ(run_plan("--gpus 24").first, 0);
  EXPECT_EQ(run_plan("--gpus 8").first, 1) << "does not fit";
  EXPECT_EQ(run_plan("--gpus 8 --spare 0 --gpu h200 --json").first, 0);
  EXPECT_EQ(run_plan("--print-profile cpu").first, 0);
  const std::pair<const char*, int> bad[] = {
      {"", 2},
      {"--gpus 0", 2},
      {"--gpus 8 --gpu tpu", 2},
      {"--gpus 8 --tpot -3", 2},
      {"--gpus 8 --context 20000000", 2},
      {"--gpus 8 --split 0:8", 2},
      {"--gpus 8 --split 5", 2},
      {"--gpus 8 --split 8:8", 2},
      {"--gpus 8 --weights int4", 2},
      {"--print-profile tpu", 2},
      {"--gpus 8 --model /no/such/directory", 1},
      {"--gpus 8 --gpu /no/such.json", 1},
  };
  for (const auto& [arguments, code] : bad) {
    const auto [exit_code, text] = run_plan(arguments);
    EXPECT_EQ(exit_code, code) << arguments;
    EXPECT_EQ(text.rfind("fulgur: ", 0), 0U) << text;
    EXPECT_EQ(text.find('\n'), text.size() - 1) << text;
  }
}

}  // namespace
}  // namespace fulgur::planner
