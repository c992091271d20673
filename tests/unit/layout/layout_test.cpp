// Reads every #include line of the tree and fails on a wrong arrow: base <- model, wire <- transport
// <- actor <- services; kernels -> base; services never include each other; each third-party library
// is seen by one folder only.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using Prefixes = std::vector<std::string>;

/// Folders by prefix, the most specific first, and what they may include besides themselves.
const std::vector<std::pair<std::string, Prefixes>>& arrows() {
  static const std::vector<std::pair<std::string, Prefixes>> table = {
      {"common/base/", {}},
      {"common/model/", {"common/base/"}},
      {"common/text/", {"common/base/"}},
      {"common/wire/", {"common/base/"}},
      {"common/http/", {"common/base/"}},
      {"common/telemetry/", {"common/base/", "common/http/"}},
      {"common/transport/", {"common/base/", "common/wire/"}},
      {"common/actor/", {"common/base/", "common/wire/", "common/transport/"}},
      {"common/", {"common/"}},
      {"kernels/", {"common/base/"}},
      {"services/router/", {"common/"}},
      {"services/orchestrator/", {"common/"}},
      {"services/attention/", {"common/", "kernels/include/"}},
      {"services/expert/", {"common/", "kernels/include/"}},
      {"cli/", {"common/"}},
  };
  return table;
}

/// Who may see a library's headers; services and common/service see CAF through common/actor only.
const std::map<std::string, Prefixes>& library_homes() {
  static const std::map<std::string, Prefixes> homes = {
      {"zmq", {"common/transport/"}},          {"capnp/", {"common/wire/"}},
      {"kj/", {"common/wire/"}},               {"caf/", {"common/actor/"}},
      {"prometheus/", {"common/telemetry/"}},  {"boost/", {"common/http/"}},
      {"curl/", {"cli/"}},                     {"simdjson", {"common/", "services/router/"}},
      {"pcre2", {"common/text/"}},             {"utf8proc", {"common/text/"}},
      {"spdlog/", {"common/base/"}},           {"nccl", {"common/transport/"}},
      {"cuda", {"common/transport/", "kernels/cuda/"}},
  };
  return homes;
}

bool starts_with_any(const std::string& text, const Prefixes& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return text.rfind(prefix, 0) == 0; });
}

/// One line per wrong #include of `file` (path relative to the root).
std::vector<std::string> wrong_includes(const fs::path& root, const std::string& file) {
  std::vector<std::string> wrong;
  const auto rule = std::find_if(arrows().begin(), arrows().end(),
                                 [&](const auto& entry) { return file.rfind(entry.first, 0) == 0; });
  std::ifstream stream(root / file);
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("#include ", 0) != 0 || line.size() < 12) continue;
    const std::string target = line.substr(10, line.find_first_of("\">", 10) - 10);
    if (line[9] == '<') {
      for (const auto& [library, homes] : library_homes())
        if (target.rfind(library, 0) == 0 && !starts_with_any(file, homes))
          wrong.push_back(file + ": <" + target + ">");
      continue;
    }
    const bool ours = starts_with_any(target, {"common/", "services/", "kernels/", "cli/", "tests/"});
    if (!ours || rule == arrows().end()) continue;
    if (target.rfind(rule->first, 0) != 0 && !starts_with_any(target, rule->second))
      wrong.push_back(file + ": \"" + target + "\"");
  }
  return wrong;
}

TEST(Layout, IncludesFollowTheArrows) {
  const fs::path root = FULGUR_SOURCE_DIR;
  std::vector<std::string> wrong;
  std::size_t files = 0;
  for (const char* const top : {"common", "kernels", "services", "cli"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".hpp" && extension != ".cpp") continue;
      ++files;
      const std::string file = fs::relative(entry.path(), root).string();
      for (auto& line : wrong_includes(root, file)) wrong.push_back(std::move(line));
    }
  }
  EXPECT_GT(files, 50U);
  for (const std::string& line : wrong) ADD_FAILURE() << line;
}

}  // namespace
}  // namespace fulgur
