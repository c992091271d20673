// Finds stop strings in text that arrives in pieces. A stop string counts as found at the first
// position where any of them is complete (the longest, if several end there), so the result does
// not depend on how the text was cut. Text that may be the beginning of one is held back.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fulgur::router {

class StopScanner {
 public:
  /// Stop strings are non-empty UTF-8. With `include_stop` the found string is part of the text.
  explicit StopScanner(std::vector<std::string> stops = {}, bool include_stop = false);

  /// Text (whole characters) that may be shown now. Nothing more comes once found().
  std::string push(std::string_view piece);
  /// Ends the text: what was held back.
  std::string flush();
  bool found() const { return found_; }

 private:
  std::size_t releasable() const;

  std::vector<std::string> stops_;
  bool include_stop_;
  bool found_ = false;
  std::string held_;
};

}  // namespace fulgur::router
