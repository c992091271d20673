// The orchestrator actor on a reactor, over the in-process transport: registration to commit, a
// lost link, the mesh view.
#include "services/orchestrator/orchestrator_actor.hpp"

#include <gtest/gtest.h>

#include "common/transport/inproc.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

/// A member that answers as it should and remembers what it was told.
class Member final : private transport::Handler {
 public:
  Member(transport::Hub& hub, ServiceKind kind, const std::string& name)
      : name_(name), kind_(kind) {
    transport_ = std::move(*hub.make({kind, name, 1}, "inproc://" + name));
    EXPECT_TRUE(transport_->connect("inproc://orchestrator", transport::Carrier::inproc).is_ok());
  }
  bool poll() { return transport_->poll(*this, 64) > 0; }

  void beat(std::uint64_t generation) {
    wire::Heartbeat beat;
    beat.name = name_;
    beat.incarnation = 1;
    beat.orchestrator_generation = generation;
    say(beat);
  }

  std::vector<wire::Ack> acks;
  wire::Placement placement;
  std::uint64_t retired = 0;

 private:
  void say(wire::Body body) {
    wire::Message message;
    message.sender = name_;
    message.body = std::move(body);
    EXPECT_TRUE(transport_->send(link_, wire::encode(message)).is_ok());
  }
  void on_link_up(transport::LinkId link, const transport::Peer&) override {
    link_ = link;
    wire::Register info;
    info.kind = kind_;
    info.name = name_;
    info.incarnation = 1;
    info.pid = 77;
    info.endpoint = "inproc://" + name_;
    info.model_fingerprint = 7;
    say(info);
  }
  void on_link_down(transport::LinkId, const Status&) override {}
  void on_message(transport::LinkId, wire::Frames frames) override {
    auto message = wire::decode(std::move(frames));
    ASSERT_TRUE(message.is_ok());
    if (const auto* ack = std::get_if<wire::Ack>(&message->body)) acks.push_back(*ack);
    if (const auto* prepare = std::get_if<wire::Prepare>(&message->body))
      say(wire::Prepared{name_, 1, prepare->epoch, Code::ok, {}});
    if (const auto* retire = std::get_if<wire::Retire>(&message->body)) retired = retire->epoch;
    if (auto* received = std::get_if<wire::Placement>(&message->body)) {
      placement = std::move(*received);
      if (kind_ == ServiceKind::attention) say(wire::Switched{name_, 1, placement.epoch});
    }
  }

  std::string name_;
  ServiceKind kind_;
  std::unique_ptr<transport::Transport> transport_;
  transport::LinkId link_ = 0;
};

class OrchestratorActorTest : public testing::Test {
 protected:
  OrchestratorActorTest() {
    OrchestratorDeps deps;
    deps.options.epochs.shape = {2, 4};
    deps.options.fingerprint = 7;
    deps.options.generation = 1;
    deps.options.expect_experts = 2;
    deps.options.expect_attention = 1;
    deps.self = {"orchestrator", 1, "inproc://orchestrator", "127.0.0.1:1"};
    deps.metrics = &mesh_metrics_;
    deps.on_serving = [this](const Status& serving) { serving_ = serving; };
    deps.on_superseded = [this](const Status& why) { superseded_ = why; };
    actor_ = start_orchestrator(reactor_, std::move(deps));
  }
  void add(ServiceKind kind, const std::string& name) {
    members_[name] = std::make_unique<Member>(hub_, kind, name);
  }
  void settle() {
    for (bool busy = true; busy;) {
      busy = reactor_.run_once();
      for (auto& [name, member] : members_) busy |= member->poll();
    }
  }
  void pass(Nanoseconds time) {
    for (Nanoseconds step = 0; step < time; step += 100 * kMillisecond) {
      clock_.advance(100 * kMillisecond);
      settle();
    }
  }

  ManualClock clock_;
  transport::Hub hub_;
  std::unique_ptr<transport::Transport> transport_ = std::move(
      *hub_.make({ServiceKind::orchestrator, "orchestrator", 1}, "inproc://orchestrator"));
  telemetry::Metrics metrics_{"orchestrator", "orchestrator"};
  MeshMetrics mesh_metrics_{metrics_};
  Status serving_ = Status(Code::unavailable, "never ticked");
  Status superseded_ = Status::ok();
  actor::Reactor reactor_{*transport_, clock_};
  actor::Handle actor_;
  std::map<std::string, std::unique_ptr<Member>> members_;
};

TEST_F(OrchestratorActorTest, CommitsTellsAndShowsTheMesh) {
  add(ServiceKind::router, "router-0");
  add(ServiceKind::attention, "attention-0");
  add(ServiceKind::expert, "expert-0");
  settle();
  EXPECT_EQ(members_["router-0"]->placement.epoch, 0U);
  add(ServiceKind::expert, "expert-1");
  settle();
  EXPECT_EQ(members_["router-0"]->placement.epoch, 1U);
  EXPECT_EQ(members_["attention-0"]->placement.workers.size(), 2U);
  EXPECT_EQ(members_["expert-0"]->retired, 1U);
  EXPECT_EQ(members_["expert-0"]->acks.at(0).orchestrator_generation, 1U);
  pass(kSecond / 2);
  EXPECT_TRUE(serving_.is_ok()) << serving_.message();
  const std::string text = metrics_.text();
  EXPECT_NE(text.find("fulgur_placement_epoch 1\n"), std::string::npos);
  EXPECT_NE(text.find("fulgur_members{kind=\"expert\",state=\"alive\"} 2\n"), std::string::npos);

  std::string json;
  actor::tell(actor_, MeshQuery{[&json](std::string answer) { json = std::move(answer); }});
  settle();
  EXPECT_NE(json.find(R"("name":"expert-1","pid":77,"replicas":8)"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("ready":true)"), std::string::npos);
}

TEST_F(OrchestratorActorTest, AWorkerWhoseProcessDiesIsLost) {
  for (const char* name : {"expert-0", "expert-1"}) add(ServiceKind::expert, name);
  add(ServiceKind::attention, "attention-0");
  settle();
  members_.erase("expert-0");
  pass(2 * kSecond);
  const wire::Placement& placement = members_["attention-0"]->placement;
  ASSERT_EQ(placement.workers.size(), 1U);
  EXPECT_EQ(placement.workers[0].name, "expert-1");
  EXPECT_TRUE(serving_.is_ok()) << serving_.message();
  EXPECT_NE(metrics_.text().find("fulgur_members_lost_total 1\n"), std::string::npos);
}

TEST_F(OrchestratorActorTest, EndsWhenMembersObeyANewerOne) {
  for (const char* name : {"expert-0", "expert-1"}) add(ServiceKind::expert, name);
  add(ServiceKind::attention, "attention-0");
  pass(kSecond);
  members_["expert-0"]->beat(1);
  pass(kSecond);
  EXPECT_TRUE(superseded_.is_ok());
  members_["expert-0"]->beat(2);
  pass(kSecond);
  EXPECT_EQ(superseded_.message(), "superseded by the orchestrator of generation 2");
}

}  // namespace
}  // namespace fulgur::orchestrator
