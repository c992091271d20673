#include "services/attention/worker_pace.hpp"

#include <algorithm>

namespace fulgur::attention {
namespace {

constexpr double kKeep = 7.0 / 8;        // of what was known, at each answer
constexpr double kKeepLittle = 1.0 / 4;  // when two answers in a row contradict it, or it is old
constexpr double kSurprise = 2.0;
constexpr Nanoseconds kOld = 100 * kMillisecond;

}  // namespace

void WorkerPace::answered(Nanoseconds now, double units, bool alone) {
  auto time = static_cast<double>(now - busy_since_);
  const bool old = alone && busy_since_ - answered_at_ > kOld;
  busy_since_ = now;
  answered_at_ = now;
  // A worker that runs several dispatches at once answers all of them together: the later ones add
  // work and no time, and are no sign of speed. Where time stands still (a test's clock) nothing
  // can be learned.
  if (time <= 0 && units_ == 0) return;
  const double expected = units_ > 0 ? time_ / units_ * units : 0;
  if (expected > 0 && time > kSurprise * expected)
    surprises_ = std::max(surprises_, 0) + 1;
  else if (alone && time * kSurprise < expected)
    surprises_ = std::min(surprises_, 0) - 1;
  else
    surprises_ = 0;
  // One long answer among others is the host's doing (or a cold cache's), not the worker's pace.
  if (surprises_ == 1) time = expected;
  const double keep = surprises_ >= 2 || surprises_ <= -2 || old ? kKeepLittle : kKeep;
  time_ = time_ * keep + time;
  units_ = units_ * keep + units;
  answers_ = std::min(answers_ + 1, 1000U);
}

double WorkerPace::value(Nanoseconds now, double units_owed) const {
  const double known = units_ > 0 ? time_ / units_ : 0;
  if (units_owed <= 0) return known;
  return std::max(known, static_cast<double>(now - busy_since_) / units_owed);
}

}  // namespace fulgur::attention
