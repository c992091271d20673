// Services of every kind killed, stopped and ended at random moments under open-loop load: no
// request fails, every token and log-probability is the undisturbed mesh's, and the mesh is whole
// again after each fault. A router takes its connections along, so its clients ask again, as client
// libraries do, and must get the same answer. The order of faults is seeded; the moments are the
// machine's.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <map>
#include <utility>

#include "common/base/rng.hpp"
#include "tests/chaos/open_loop.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::chaos {
namespace {

using integration::eventually;
using integration::Mesh;

constexpr std::uint64_t kSeed = 20261123;
constexpr std::size_t kRequests = 32;
constexpr std::uint32_t kTokens = 48;
const integration::MeshFlags kShape{.experts = 3, .attention = 2};

/// A process that dies again before this is started ever later: longer than clients try.
constexpr unsigned kGoodRun_s = 11;

enum class Fault {
  kill,  ///< SIGKILL; the supervisor starts it again
  stop,  ///< SIGSTOP and, a while later, SIGCONT
  term,  ///< SIGTERM: it moves what it holds away and leaves; the pool is scaled back up
  drain  ///< `fulgur drain`: the same, asked of the orchestrator
};

constexpr const char* name_of(Fault fault) {
  constexpr const char* kNames[] = {"SIGKILL", "SIGSTOP", "SIGTERM", "drain"};
  return kNames[static_cast<int>(fault)];
}

struct Target {
  const char* service;
  int weight;
};

/// Services a fault may hit, experts most often.
const std::vector<Target> kBehindTheRouter = {{"expert-0", 3},    {"expert-1", 3},
                                              {"expert-2", 3},    {"attention-0", 2},
                                              {"attention-1", 2}, {"orchestrator", 2}};
const std::vector<Target> kRouterToo = {
    {"router-0", 5}, {"expert-0", 1}, {"attention-0", 1}, {"orchestrator", 1}};

/// `brief`, or in the long mode `part` of FULGUR_CHAOS_MINUTES (30).
Nanoseconds duration(Nanoseconds brief, double part) {
  if (!integration::long_mode()) return brief;
  const char* const minutes = std::getenv("FULGUR_CHAOS_MINUTES");
  const double all = (minutes != nullptr ? std::atoi(minutes) : 30) * 60;
  return static_cast<Nanoseconds>(part * all * static_cast<double>(kSecond));
}

class Storm {
 public:
  Storm(Mesh& mesh, OpenLoop& load, std::vector<Target> targets)
      : mesh_(mesh), load_(load), targets_(std::move(targets)), rng_(kSeed) {}

  /// Hits one or two services, lets the mesh recover, and so on until the time is over.
  void rage(Nanoseconds time) {
    const RealClock clock;
    for (const Nanoseconds end = clock.now() + time; clock.now() < end;) {
      const std::string first = pick_target();
      together_ = rng_.below(3) == 0;
      hit(first);
      if (together_) {
        pause(300);
        // Another kind, so that capacity remains: a second replica, a second shard.
        std::string second = pick_target();
        while (second.substr(0, 3) == first.substr(0, 3)) second = pick_target();
        hit(second);
      }
      const Nanoseconds since = clock.now();
      ASSERT_TRUE(eventually([&] { return mesh_.is_whole(); }))
          << "not whole after fault " << count_ << ": " << mesh_.view().dump();
      fmt::print("          whole after {:.1f} s\n",
                 static_cast<double>(clock.now() - since) / 1e9);
      pause(1000);
      if (std::exchange(router_died_, false) && integration::long_mode()) sleep(kGoodRun_s);
    }
  }
  const std::map<std::string, int>& faults() const { return by_class_; }

 private:
  std::string pick_target() {
    int total = 0;
    for (const Target& target : targets_) total += target.weight;
    auto ticket = static_cast<int>(rng_.below(static_cast<std::uint64_t>(total)));
    for (const Target& target : targets_)
      if ((ticket -= target.weight) < 0) return target.service;
    return targets_[0].service;
  }

  /// Up to `most` milliseconds.
  void pause(std::uint64_t most) { usleep(static_cast<useconds_t>(1000 * rng_.below(most))); }

  /// Whether it moves something away before it ends, and stays away then.
  static bool holds_state(const std::string& kind) {
    return kind == "expert" || kind == "attention";
  }

  Fault pick_fault(const std::string& kind) {
    constexpr Fault kFaults[] = {Fault::kill, Fault::kill, Fault::stop, Fault::term, Fault::drain};
    return kFaults[rng_.below(holds_state(kind) ? 5 : 4)];
  }

  void hit(const std::string& service) {
    const std::string kind = service.substr(0, service.find('-'));
    const Fault fault = pick_fault(kind);
    SCOPED_TRACE(fmt::format("seed {}, fault {}: {} {}", kSeed, count_++, name_of(fault), service));
    const std::string fault_class =
        fmt::format("{} {}{}", name_of(fault), kind, together_ ? ", two at once" : "");
    ++by_class_[fault_class];
    load_.fault(fault_class);
    const RealClock clock;
    const Nanoseconds began = clock.now();
    strike(fault, service, kind);
    fmt::print("{:6.1f} s  {} {}, {:.1f} s\n", static_cast<double>(began - began_) / 1e9,
               name_of(fault), service, static_cast<double>(clock.now() - began) / 1e9);
  }

  void strike(Fault fault, const std::string& service, const std::string& kind) {
    const pid_t pid = mesh_.pid_of(service);
    router_died_ = router_died_ || (kind == "router" && fault != Fault::stop);
    switch (fault) {
      case Fault::kill:
        mesh_.kill_service(service);
        break;
      case Fault::stop:
        kill(pid, SIGSTOP);
        pause(4000);
        kill(pid, SIGCONT);
        break;
      case Fault::term:
        kill(pid, SIGTERM);
        EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0; })) << service << " does not leave";
        scale_back(kind);
        break;
      case Fault::drain:
        command({"drain", service});
        EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0; })) << service << " does not leave";
        scale_back(kind);
        break;
    }
  }

  /// Runs `fulgur …` on this mesh until it succeeds: while another fault is being repaired the
  /// orchestrator may refuse, or be away.
  void command(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--port", std::to_string(mesh_.port())});
    integration::Finished finished;
    EXPECT_TRUE(eventually([&] {
      finished = integration::run_program(integration::program("fulgur"), arguments);
      return finished.exit_code == 0;
    })) << arguments[0]
        << ": " << finished.output;
  }
  void scale_back(const std::string& kind) {
    if (kind == "expert")
      command({"scale", "experts", std::to_string(kShape.experts)});
    else if (kind == "attention")
      command({"scale", "attention", std::to_string(kShape.attention)});
  }

  Mesh& mesh_;
  OpenLoop& load_;
  std::vector<Target> targets_;
  Rng rng_;
  int count_ = 0;
  const Nanoseconds began_ = RealClock().now();
  bool router_died_ = false;
  bool together_ = false;  ///< the fault in hand is one of a pair: its pauses are counted apart
  std::map<std::string, int> by_class_;
};

void print(const LoadReport& report, const Storm& storm) {
  fmt::print("{} requests, {} tokens, {} equal, {} asked again\n", report.asked, report.tokens,
             report.equal, report.tried_again);
  for (const auto& [fault, count] : storm.faults()) {
    const auto seconds = [&](double q) {
      return static_cast<double>(report.pause_quantile(fault, q)) / 1e9;
    };
    fmt::print("{:38} {:4} times; pause of a stream p50 {:.3f} s, p99 {:.3f} s, max {:.3f} s\n",
               fault, count, seconds(0.5), seconds(0.99), seconds(1));
  }
}

/// Load and faults for `time`; every request must end with the undisturbed mesh's answer.
void expect_unharmed(const std::vector<Target>& targets, int retries_max, Nanoseconds time) {
  Mesh mesh(kShape);
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = integration::mixed_requests(kRequests, kTokens);
  const auto expected = integration::at_once(mesh.url(), requests, true);
  for (const auto& answer : expected) ASSERT_EQ(answer.error, "");

  OpenLoop load(mesh.url(), requests, expected,
                {.rate_per_s = 8, .seed = kSeed, .retries_max = retries_max});
  Storm storm(mesh, load, targets);
  storm.rage(time);
  const LoadReport report = load.finish();
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  EXPECT_EQ(report.equal, report.asked);
  EXPECT_GT(report.asked, 0U);
  print(report, storm);
  EXPECT_EQ(mesh.stop(), 0);
}

TEST(Chaos, NoRequestFailsOrChanges) {
  expect_unharmed(kBehindTheRouter, 0, duration(20 * kSecond, 0.75));
}

TEST(Chaos, ClientsOfADeadRouterAskAgainAndGetTheSame) {
  constexpr int kRetries = 8;  // 25 s in all
  expect_unharmed(kRouterToo, kRetries, duration(8 * kSecond, 0.25));
}

}  // namespace
}  // namespace fulgur::chaos
