// The way down of a shard or worker: what its actors say before, during and after serving.
#include "common/service/member.hpp"

#include <gtest/gtest.h>

#include "common/actor/caf_compat.hpp"

namespace fulgur::service {
namespace {

/// Calls `fatal` when it is asked to and once more while the reactor ends it.
class Refused {
 public:
  Refused(actor::Self& self, Member* member) : member_(*member) { (void)self; }
  caf::behavior make_behavior() {
    return {[this](int) { member_.fatal("refused"); }};
  }

 private:
  Member& member_;
};

class MemberTest : public ::testing::Test {
 protected:
  MemberTest() {
    flags_.name = "expert-0";
    flags_.model = FULGUR_SOURCE_DIR "/models/fulgur-tiny";
  }

  Flags flags_;
};

TEST_F(MemberTest, MailThatIsReadAfterServingIsNoFailure) {
  Member member("fulgur-expert", wire::ServiceKind::expert, flags_);
  ASSERT_TRUE(member.open().is_ok());
  {
    actor::Reactor reactor(member.transport(), member.clock());
    const auto refused = reactor.spawn<Refused>(&member);
    for (int mail = 0; mail < 1000; ++mail) actor::tell(refused, mail);  // more than one pass runs
    EXPECT_EQ(member.serve(reactor, [] {}), 1);
  }
}

TEST_F(MemberTest, AFailureBeforeServingEndsIt) {
  Member member("fulgur-expert", wire::ServiceKind::expert, flags_);
  ASSERT_TRUE(member.open().is_ok());
  actor::Reactor reactor(member.transport(), member.clock());
  member.fatal("cannot connect");
  EXPECT_EQ(member.serve(reactor, [] {}), 1);
}

TEST_F(MemberTest, LeavingEndsWithZero) {
  Member member("fulgur-expert", wire::ServiceKind::expert, flags_);
  ASSERT_TRUE(member.open().is_ok());
  actor::Reactor reactor(member.transport(), member.clock());
  reactor.post([&] { member.left(); });
  EXPECT_EQ(member.serve(reactor, [] {}), 0);
}

TEST(Flags, CarriersBetweenGpusEndWithNone) {
  using transport::DeviceCarrier;
  Flags flags;
  EXPECT_EQ(flags.device_options().carriers, (std::vector{DeviceCarrier::peer, DeviceCarrier::nccl}));
  flags.gpu_carriers = {"nccl", "none", "peer"};
  flags.gpu_window_bytes = 1 << 20;
  EXPECT_EQ(flags.device_options().carriers, std::vector{DeviceCarrier::nccl});
  EXPECT_EQ(flags.device_options().window_bytes, 1U << 20);
  flags.gpu_carriers = {"none"};
  EXPECT_TRUE(flags.device_options().carriers.empty());
}

}  // namespace
}  // namespace fulgur::service
