#include "tests/chaos/open_loop.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>

#include "common/base/rng.hpp"

namespace fulgur::chaos {
namespace {

constexpr useconds_t kFirstBackoff_us = 100'000;

/// What a client library repeats: a connection that broke, a server that says "not now".
bool may_repeat(const integration::Answer& answer) {
  return !answer.error.empty() && !answer.error.starts_with("4");
}

}  // namespace

Nanoseconds LoadReport::pause_quantile(const std::string& fault, double q) const {
  std::vector<Nanoseconds> lengths;
  for (const Pause& pause : pauses)
    if (pause.fault == fault) lengths.push_back(pause.length);
  if (lengths.empty()) return 0;
  std::sort(lengths.begin(), lengths.end());
  const double rank = std::ceil(q * static_cast<double>(lengths.size())) - 1;
  return lengths[static_cast<std::size_t>(std::max(rank, 0.0))];
}

OpenLoop::OpenLoop(std::string url, std::vector<nlohmann::json> requests,
                   std::vector<integration::Answer> expected, Options options)
    : url_(std::move(url)),
      requests_(std::move(requests)),
      expected_(std::move(expected)),
      options_(options) {
  threads_.emplace_back([this] { arrive(); });
  for (std::size_t i = 0; i < options_.in_flight_max; ++i)
    threads_.emplace_back([this] { serve(); });
}

OpenLoop::~OpenLoop() { finish(); }

void OpenLoop::fault(const std::string& name) {
  const std::lock_guard lock(mutex_);
  faults_.emplace_back(clock_.now(), name);
}

LoadReport OpenLoop::finish() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  return report_;
}

void OpenLoop::arrive() {
  Rng rng(options_.seed);
  auto due = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!changed_.wait_until(lock, due, [&] { return ending_; })) {
    arrived_.push_back(rng.below(requests_.size()));
    changed_.notify_all();
    const double pause_s = -std::log1p(-rng.uniform()) / options_.rate_per_s;
    due += std::chrono::nanoseconds(static_cast<Nanoseconds>(pause_s * 1e9));
  }
}

void OpenLoop::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !arrived_.empty(); });
    if (arrived_.empty()) return;
    const std::size_t index = arrived_.front();
    arrived_.pop_front();
    lock.unlock();
    ask(index);
    lock.lock();
  }
}

integration::Answer OpenLoop::ask_once(const nlohmann::json& request) {
  Nanoseconds last = clock_.now();
  return integration::stream(url_, request, [&](std::size_t tokens) {
    const Nanoseconds now = clock_.now();
    note_pause(last, now);
    last = now;
    const std::lock_guard lock(mutex_);
    report_.tokens += tokens;
  });
}

void OpenLoop::ask(std::size_t index) {
  integration::Answer answer;
  int repeats = 0;
  for (;; ++repeats) {
    answer = ask_once(requests_[index]);
    if (!may_repeat(answer) || repeats == options_.retries_max) break;
    usleep(kFirstBackoff_us << repeats);
  }
  const std::lock_guard lock(mutex_);
  ++report_.asked;
  report_.tried_again += repeats > 0;
  if (answer == expected_[index]) {
    ++report_.equal;
    return;
  }
  std::ostringstream text;
  text << "request " << index << ": " << answer << " instead of " << expected_[index];
  report_.failures.push_back(text.str());
}

void OpenLoop::note_pause(Nanoseconds from, Nanoseconds to) {
  const std::lock_guard lock(mutex_);
  for (const auto& [at, name] : faults_)
    if (from <= at && at < to) report_.pauses.push_back({name, to - from});
}

}  // namespace fulgur::chaos
