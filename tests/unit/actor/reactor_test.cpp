// The loop that runs a process's actors, on virtual time and one thread: order of mail, timers, work
// posted by other threads, messages from peers, and supervision with a restart budget.
#include "common/actor/reactor.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "common/actor/supervisor.hpp"
#include "common/transport/loopback.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::actor {

struct Note {
  int value = 0;
};
struct Fail {};
struct Later {
  Nanoseconds delay = 0;
  int value = 0;
};

}  // namespace fulgur::actor

FULGUR_LOCAL_MESSAGE(fulgur::actor::Note)
FULGUR_LOCAL_MESSAGE(fulgur::actor::Fail)
FULGUR_LOCAL_MESSAGE(fulgur::actor::Later)

namespace fulgur::actor {
namespace {

/// Writes what it receives to a list of the test.
class Scribe {
 public:
  Scribe(Self& self, std::vector<int>* notes) : self_(self), notes_(*notes) {}
  caf::behavior make_behavior() {
    return {
        [this](const Note& note) { notes_.push_back(note.value); },
        [this](const Later& later) { tell_after(self_, later.delay, &self_, Note{later.value}); },
        [](Fail) { throw std::runtime_error("asked to"); },
        [this](const Received<wire::Cancel>& cancel) {
          notes_.push_back(static_cast<int>(cancel.body.request));
        },
        [this](const LinkUp&) { notes_.push_back(-1); },
        [this](const LinkDown&) { notes_.push_back(-2); },
    };
  }

 private:
  Self& self_;
  std::vector<int>& notes_;
};

wire::Frames encoded(wire::Body body) {
  wire::Message message;
  message.sender = "self";
  message.body = std::move(body);
  return wire::encode(message);
}

class ReactorTest : public testing::Test {
 protected:
  ReactorTest() {
    clock_.advance(kSecond);  // CAF's steppable clock starts at one nanosecond, not at zero
    reactor_.run_until_idle();
  }

  Handle scribe() { return reactor_.spawn<Scribe>(&notes_); }

  ManualClock clock_;
  transport::LoopbackTransport transport_{{wire::ServiceKind::expert, "self", 1}};
  std::vector<int> notes_;
  Reactor reactor_{transport_, clock_};
};

TEST_F(ReactorTest, MailKeepsItsOrder) {
  const Handle one = scribe();
  const Handle two = scribe();
  for (int i = 0; i < 8; ++i) tell(i % 2 == 0 ? one : two, Note{i});
  reactor_.run_until_idle();
  EXPECT_EQ(notes_.size(), 8U);
  std::vector<int> even;
  for (const int note : notes_)
    if (note % 2 == 0) even.push_back(note);
  EXPECT_EQ(even, (std::vector<int>{0, 2, 4, 6}));
}

TEST_F(ReactorTest, TimersFireWhenDueInTheirOrder) {
  const Handle actor = scribe();
  tell(actor, Later{30 * kMillisecond, 3});
  tell(actor, Later{10 * kMillisecond, 1});
  tell(actor, Later{20 * kMillisecond, 2});
  reactor_.run_until_idle();
  EXPECT_TRUE(notes_.empty());
  clock_.advance(10 * kMillisecond - 1);
  reactor_.run_until_idle();
  EXPECT_TRUE(notes_.empty()) << "a nanosecond early";
  clock_.advance(1);
  reactor_.run_until_idle();
  EXPECT_EQ(notes_, (std::vector<int>{1}));
  clock_.advance(kSecond);
  reactor_.run_until_idle();
  EXPECT_EQ(notes_, (std::vector<int>{1, 2, 3}));
}

TEST_F(ReactorTest, ThreadsReachActorsAndTheLoop) {
  const Handle actor = scribe();
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) tell(actor, Note{i});
    reactor_.post([&] { notes_.push_back(1000); });
    reactor_.post([&] { reactor_.stop(); });
  });
  reactor_.run();
  other.join();
  reactor_.run_until_idle();
  EXPECT_EQ(notes_.size(), 101U);
}

TEST_F(ReactorTest, PeersReachTheActorThatSubscribed) {
  const Handle actor = scribe();
  reactor_.subscribe<wire::Cancel>(actor);
  reactor_.subscribe_links(actor);
  const auto link = transport_.connect(transport::LoopbackTransport::kEndpoint,
                                       transport::Carrier::automatic);
  ASSERT_TRUE(link.is_ok());
  reactor_.run_until_idle();
  ASSERT_EQ(notes_, (std::vector<int>{-1}));
  wire::Cancel cancel;
  cancel.request = 77;
  ASSERT_TRUE(transport_.send(*link, encoded(cancel)).is_ok());
  ASSERT_TRUE(transport_.send(*link, encoded(wire::Nack{})).is_ok());
  const auto garbage = std::make_shared<std::vector<std::byte>>(64, std::byte{0xa5});
  ASSERT_TRUE(transport_.send(*link, {{garbage, garbage->data(), garbage->size()}}).is_ok());
  reactor_.run_until_idle();
  EXPECT_EQ(notes_, (std::vector<int>{-1, 77}));
  EXPECT_EQ(reactor_.unexpected(), 1U) << "a kind that nobody takes";
  EXPECT_EQ(reactor_.malformed(), 1U);
}

TEST_F(ReactorTest, AScheduleCanBeChosen) {
  const Handle one = scribe();
  const Handle two = scribe();
  reactor_.run_until_idle();
  tell(one, Note{1});
  tell(two, Note{2});
  ASSERT_EQ(reactor_.scheduler().queued(), 2U);
  reactor_.scheduler().prioritize(1);
  reactor_.run_until_idle();
  EXPECT_EQ(notes_, (std::vector<int>{2, 1}));
}

class SupervisorTest : public ReactorTest {
 protected:
  void supervise(std::size_t restarts_max) {
    SupervisorOptions options;
    options.restarts_max = restarts_max;
    options.window = 10 * kSecond;
    options.on_escalate = [this](const std::string& child, const std::string&) {
      escalated_.push_back(child);
    };
    const ChildSpec scribe_spec{"scribe", [this] { return scribe(); },
                                [this](const Handle& child) {
                                  child_ = child;
                                  ++starts_;
                                }};
    supervisor_ = reactor_.spawn<Supervisor>(&clock_, options, std::vector{scribe_spec});
    reactor_.run_until_idle();
  }
  /// A child that lost its last handle here would be started again, into a fixture half gone.
  void TearDown() override {
    stop(child_);
    reactor_.run_until_idle();
  }
  void fail_child() {
    tell(child_, Fail{});
    reactor_.run_until_idle();
  }

  Handle supervisor_;
  Handle child_;
  int starts_ = 0;
  std::vector<std::string> escalated_;
};

TEST_F(SupervisorTest, RestartsAFailedChildAndGivesUpBeyondTheBudget) {
  supervise(2);
  EXPECT_EQ(starts_, 1);
  fail_child();
  fail_child();
  EXPECT_EQ(starts_, 3);
  tell(child_, Note{5});
  reactor_.run_until_idle();
  EXPECT_EQ(notes_, (std::vector<int>{5}));
  EXPECT_TRUE(escalated_.empty());
  fail_child();
  EXPECT_EQ(starts_, 3);
  EXPECT_EQ(escalated_, (std::vector<std::string>{"scribe"}));
}

TEST_F(SupervisorTest, LivesWithoutAnybodyWhoHoldsIt) {
  supervise(1);
  supervisor_ = nullptr;
  reactor_.run_until_idle();
  fail_child();
  EXPECT_EQ(starts_, 2);
  fail_child();
  EXPECT_EQ(escalated_, (std::vector<std::string>{"scribe"}));
}

TEST_F(SupervisorTest, OldFailuresAreForgotten) {
  supervise(1);
  for (int i = 0; i < 5; ++i) {
    fail_child();
    clock_.advance(10 * kSecond);
  }
  EXPECT_EQ(starts_, 6);
  EXPECT_TRUE(escalated_.empty());
}

TEST_F(SupervisorTest, ANormalEndIsNotAFailure) {
  supervise(1);
  stop(child_);
  reactor_.run_until_idle();
  EXPECT_EQ(starts_, 1);
  EXPECT_TRUE(escalated_.empty());
}

TEST_F(SupervisorTest, ABudgetOfZeroEscalatesAtOnce) {
  supervise(0);
  fail_child();
  EXPECT_EQ(starts_, 1);
  EXPECT_EQ(escalated_.size(), 1U);
}

}  // namespace
}  // namespace fulgur::actor
