// Process log: one line a record, `time level service message key=value …`, to stderr. Thread-safe.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace fulgur::log {

enum class Level { debug, info, warn, error };

/// Names the process in every line and sets the lowest level printed. Call once, from main.
void init(std::string service, Level level);
/// "debug" | "info" | "warn" | "error"; anything else is info.
Level parse_level(std::string_view text);
bool enabled(Level level);
void write(Level level, std::string_view line);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::debug)) write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::info)) write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::warn)) write(Level::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::error)) write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fulgur::log
