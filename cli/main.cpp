// fulgur: the command of users and operators.
#include <cstdio>

#include "cli/commands.hpp"
#include "common/base/memory.hpp"

int main(int argc, char** argv) {
  fulgur::tune_allocator();
  const auto parsed = fulgur::cli::parse_command_line({argv + 1, argv + argc});
  if (!parsed.command) {
    std::fputs(parsed.text.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  return std::visit([](const auto& options) { return fulgur::cli::run(options); }, *parsed.command);
}
