// Virtual time and chance of one simulated run: a queue of events, a seeded generator, and the trace
// of everything that happened, as a hash (always) and as text (when somebody wants to read it).
// Equal seeds give equal traces. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/rng.hpp"

namespace fulgur::sim {

/// Random choices beyond what Rng offers.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : rng_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return rng_.below(bound); }
  std::uint64_t bits() { return rng_.next(); }
  double uniform() { return rng_.uniform(); }
  bool chance(double probability) { return rng_.uniform() < probability; }
  /// Uniform in [least, most].
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(most - least) + 1));
  }
  /// Exponentially distributed.
  Nanoseconds around(Nanoseconds mean);
  template <class List>
  auto& pick(List& list) {
    return list[below(list.size())];
  }

 private:
  Rng rng_;
};

class World {
 public:
  /// `lines` receives one line an event when given.
  explicit World(std::uint64_t seed, std::function<void(const std::string&)> lines = {});

  Nanoseconds now() const { return now_; }
  Dice& dice() { return dice_; }

  void at(Nanoseconds when, std::function<void()> what);
  void after(Nanoseconds delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  /// Runs the next event unless it lies beyond `until`, in which case time stops there and false is
  /// returned.
  bool step(Nanoseconds until);

  /// Adds to the trace; `describe()` gives the text, called only when somebody reads it.
  template <class Describe>
  void record(std::uint64_t what, Describe&& describe) {
    trace_ = mix64(trace_ ^ what ^ static_cast<std::uint64_t>(now_));
    ++events_;
    if (lines_) print(describe());
  }
  bool verbose() const { return static_cast<bool>(lines_); }
  /// A line that is no event of the simulation (the log of the code under test).
  void print(const std::string& line) const;
  std::uint64_t trace() const { return trace_; }
  std::uint64_t events() const { return events_; }

 private:
  struct Event {
    Nanoseconds when;
    std::uint64_t order;
    std::function<void()> what;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return a.when != b.when ? a.when > b.when : a.order > b.order;
    }
  };

  Nanoseconds now_ = 0;
  Dice dice_;
  std::function<void(const std::string&)> lines_;
  std::priority_queue<Event, std::vector<Event>, Later> queue_;
  std::uint64_t order_ = 0;
  std::uint64_t trace_ = 0;
  std::uint64_t events_ = 0;
};

/// The clock of one simulated process: the world's, ahead by what it has computed in this pass.
class ProcessClock final : public Clock {
 public:
  explicit ProcessClock(const World& world) : world_(world) {}
  Nanoseconds now() const override { return world_.now() + spent_; }
  Nanoseconds wall_now() const override { return kWallOrigin + now(); }
  void begin_pass() { spent_ = 0; }
  void spend(Nanoseconds cost) { spent_ += cost; }
  Nanoseconds spent() const { return spent_; }

 private:
  static constexpr Nanoseconds kWallOrigin = 1'700'000'000 * kSecond;
  const World& world_;
  Nanoseconds spent_ = 0;
};

}  // namespace fulgur::sim
