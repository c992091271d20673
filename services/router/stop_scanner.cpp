#include "services/router/stop_scanner.hpp"

#include <algorithm>
#include <utility>

namespace fulgur::router {

StopScanner::StopScanner(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {}

std::string StopScanner::push(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  std::size_t begin = std::string::npos;
  std::size_t end = std::string::npos;
  for (const auto& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const std::size_t after = at + stop.size();
    if (after < end || (after == end && at < begin)) {
      begin = at;
      end = after;
    }
  }
  found_ = begin != std::string::npos;
  const std::size_t shown = found_ ? (include_stop_ ? end : begin) : releasable();
  std::string text = held_.substr(0, shown);
  held_.erase(0, found_ ? held_.size() : shown);
  return text;
}

/// Everything before the longest end of the held text that begins a stop string.
std::size_t StopScanner::releasable() const {
  std::size_t kept = 0;
  for (const auto& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > kept; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) kept = n;
    }
  }
  return held_.size() - kept;
}

std::string StopScanner::flush() { return std::exchange(held_, {}); }

}  // namespace fulgur::router
