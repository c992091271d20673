#include "tests/sim/world.hpp"

#include <fmt/format.h>

#include <cmath>

#include "common/base/assert.hpp"

namespace fulgur::sim {

Nanoseconds Dice::around(Nanoseconds mean) {
  return static_cast<Nanoseconds>(-std::log1p(-rng_.uniform()) * static_cast<double>(mean));
}

World::World(std::uint64_t seed, std::function<void(const std::string&)> lines)
    : dice_(mix64(seed ^ 0x776f726c64ULL)), lines_(std::move(lines)), trace_(mix64(seed)) {}

void World::at(Nanoseconds when, std::function<void()> what) {
  FULGUR_ASSERT(when >= now_, "an event in the past");
  queue_.push({when, order_++, std::move(what)});
}

bool World::step(Nanoseconds until) {
  if (queue_.empty() || queue_.top().when > until) {
    now_ = std::max(now_, until);
    return false;
  }
  // top() is const only to keep the order intact; the event is popped before it runs.
  auto what = std::move(const_cast<Event&>(queue_.top()).what);
  now_ = queue_.top().when;
  queue_.pop();
  what();
  return true;
}

void World::print(const std::string& line) const {
  if (lines_) lines_(fmt::format("{:12.6f} {}", static_cast<double>(now_) / 1e9, line));
}

}  // namespace fulgur::sim
