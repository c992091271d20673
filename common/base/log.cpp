#include "common/base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "common/base/log_redirect.hpp"

namespace fulgur::log {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto created = spdlog::stderr_logger_mt("fulgur");
    created->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %n %v");
    created->set_level(spdlog::level::info);
    return created;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warn: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

/// Where records go instead of stderr.
struct Redirection {
  Level least = Level::info;
  Sink sink;
};
Redirection& redirection() {
  static Redirection instance;
  return instance;
}

}  // namespace

void redirect(Level least, Sink sink) { redirection() = {least, std::move(sink)}; }

void init(std::string service, Level level) {
  // The pattern carries the name, so the one logger every thread already holds is kept.
  logger().set_pattern("%Y-%m-%dT%H:%M:%S.%e %L " + service + " %v");
  logger().set_level(to_spdlog(level));
  logger().flush_on(spdlog::level::debug);
}

Level parse_level(std::string_view text) {
  if (text == "debug") return Level::debug;
  if (text == "warn") return Level::warn;
  if (text == "error") return Level::error;
  return Level::info;
}

bool enabled(Level level) {
  const Redirection& elsewhere = redirection();
  return elsewhere.sink ? level >= elsewhere.least : logger().should_log(to_spdlog(level));
}

void write(Level level, std::string_view line) {
  const Redirection& elsewhere = redirection();
  if (elsewhere.sink) return elsewhere.sink(level, line);
  logger().log(to_spdlog(level), line);
}

}  // namespace fulgur::log
