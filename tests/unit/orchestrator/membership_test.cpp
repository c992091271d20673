// Registration rules and liveness of the membership table on virtual time.
#include "services/orchestrator/membership.hpp"

#include <gtest/gtest.h>

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

constexpr std::uint64_t kModel = 0xabc;

wire::Register worker(const std::string& name, std::uint64_t incarnation) {
  wire::Register info;
  info.kind = ServiceKind::expert;
  info.name = name;
  info.incarnation = incarnation;
  info.model_fingerprint = kModel;
  info.numerics = "cpu-bf16";
  return info;
}

wire::Heartbeat beat(const std::string& name, std::uint64_t incarnation) {
  wire::Heartbeat heartbeat;
  heartbeat.name = name;
  heartbeat.incarnation = incarnation;
  return heartbeat;
}

class MembershipTest : public testing::Test {
 protected:
  using Arrival = Membership::Arrival;
  ManualClock clock_;
  Membership members_{kModel, MembershipLimits{}, clock_};
};

TEST_F(MembershipTest, TellsArrivalsApart) {
  EXPECT_EQ(*members_.on_register(1, worker("expert-0", 5)), Arrival::joined);
  EXPECT_EQ(*members_.on_register(2, worker("expert-0", 5)), Arrival::again);
  EXPECT_EQ(*members_.on_register(3, worker("expert-0", 6)), Arrival::replaced);
  EXPECT_EQ(members_.find("expert-0")->link, 3U);
  EXPECT_EQ(members_.on_register(4, worker("expert-0", 5)).status().code(),
            Code::failed_precondition);
}

TEST_F(MembershipTest, RefusesAnotherModelByName) {
  auto info = worker("expert-0", 1);
  info.model_fingerprint = 0xdef;
  EXPECT_EQ(members_.on_register(1, info).status().message(),
            "expert-0 serves model 0000000000000def, this mesh serves 0000000000000abc");
  info.kind = ServiceKind::router;
  EXPECT_FALSE(members_.on_register(1, info).is_ok());
  info.model_fingerprint = 0;
  EXPECT_TRUE(members_.on_register(1, info).is_ok());
}

TEST_F(MembershipTest, RefusesOtherWeightsAndNumerics) {
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 1)).is_ok());
  auto other = worker("expert-1", 1);
  other.numerics = "cpu-f32";
  EXPECT_EQ(members_.on_register(2, other).status().message(),
            "expert-1 computes with numerics cpu-f32, expert-0 with cpu-bf16");
  other = worker("expert-1", 1);
  other.weight_version = 3;
  EXPECT_EQ(members_.on_register(2, other).status().message(),
            "expert-1 has weight version 3, expert-0 has 0");
  // Alone, a mesh may change what it computes with.
  clock_.advance(60 * kSecond);
  EXPECT_EQ(members_.expire(), std::vector<std::string>{"expert-0"});
  EXPECT_TRUE(members_.on_register(2, other).is_ok());
}

TEST_F(MembershipTest, SilenceIsLossAndSpeakingComesBack) {
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 1)).is_ok());
  clock_.advance(4 * kSecond);
  EXPECT_FALSE(*members_.on_heartbeat(1, beat("expert-0", 1)));
  clock_.advance(4 * kSecond);
  EXPECT_TRUE(members_.expire().empty());
  clock_.advance(kSecond);
  EXPECT_EQ(members_.expire(), std::vector<std::string>{"expert-0"});
  EXPECT_TRUE(members_.expire().empty());
  EXPECT_TRUE(*members_.on_heartbeat(1, beat("expert-0", 1)));
  EXPECT_EQ(members_.find("expert-0")->state, MemberState::alive);
}

TEST_F(MembershipTest, IncarnationsOfTheLostBindNobody) {
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 6)).is_ok());
  EXPECT_EQ(members_.on_register(2, worker("expert-0", 5)).status().code(),
            Code::failed_precondition);
  clock_.advance(MembershipLimits{}.heartbeat_timeout + kSecond);
  EXPECT_EQ(members_.expire(), std::vector<std::string>{"expert-0"});
  EXPECT_EQ(*members_.on_register(2, worker("expert-0", 5)), Arrival::joined);
  EXPECT_EQ(members_.find("expert-0")->info.incarnation, 5U);
}

TEST_F(MembershipTest, HeartbeatsOfStrangersAreNotFound) {
  EXPECT_EQ(members_.on_heartbeat(1, beat("expert-0", 1)).status().code(), Code::not_found);
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 2)).is_ok());
  EXPECT_EQ(members_.on_heartbeat(1, beat("expert-0", 1)).status().code(), Code::not_found);
}

TEST_F(MembershipTest, ALinkThatComesBackInTimeIsNoLoss) {
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 1)).is_ok());
  members_.on_link_down(1);
  clock_.advance(kSecond / 2);
  EXPECT_TRUE(members_.expire().empty());
  EXPECT_EQ(*members_.on_register(2, worker("expert-0", 1)), Arrival::again);
  clock_.advance(kSecond);
  EXPECT_TRUE(members_.expire().empty());
  members_.on_link_down(2);
  clock_.advance(kSecond);
  EXPECT_EQ(members_.expire().size(), 1U);
  EXPECT_EQ(*members_.on_register(3, worker("expert-0", 1)), Arrival::joined);
}

TEST_F(MembershipTest, ReportsAreConfirmedBySilence) {
  ASSERT_TRUE(members_.on_register(1, worker("expert-0", 1)).is_ok());
  const wire::Report report{"attention-0", "expert-0", 1, Code::unavailable};
  members_.on_report(report);
  EXPECT_TRUE(members_.expire().empty()) << "it spoke just now";
  EXPECT_FALSE(*members_.on_heartbeat(1, beat("expert-0", 1)));
  clock_.advance(2 * kSecond);
  EXPECT_TRUE(members_.expire().empty()) << "a heartbeat answered the report";
  members_.on_report(report);
  EXPECT_EQ(members_.expire().size(), 1U) << "silent for two seconds and reported";
  members_.on_report({"attention-0", "expert-9", 1, Code::unavailable});
  members_.on_report({"attention-0", "expert-0", 7, Code::unavailable});
}

TEST_F(MembershipTest, ForgetsTheLostAndStaysBounded) {
  MembershipLimits limits;
  limits.members_max = 2;
  Membership small(kModel, limits, clock_);
  ASSERT_TRUE(small.on_register(1, worker("expert-0", 1)).is_ok());
  ASSERT_TRUE(small.on_register(2, worker("expert-1", 1)).is_ok());
  EXPECT_EQ(small.on_register(3, worker("expert-2", 1)).status().code(), Code::resource_exhausted);
  small.on_link_down(1);
  clock_.advance(kSecond);
  EXPECT_EQ(small.expire(), std::vector<std::string>{"expert-0"});
  EXPECT_TRUE(small.on_register(3, worker("expert-2", 1)).is_ok());
  EXPECT_EQ(small.find("expert-0"), nullptr);
  clock_.advance(700 * kSecond);
  (void)small.expire();
  EXPECT_TRUE(small.members().empty());
}

}  // namespace
}  // namespace fulgur::orchestrator
