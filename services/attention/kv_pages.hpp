// Which KV pages and state slots are free. Page numbers are common to all softmax layers, slot
// numbers to all lightning layers; the layers own the memory. Hard limits: taking fails, never grows.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/assert.hpp"

namespace fulgur::attention {

/// Numbers 0 .. count-1, each free or taken. Lowest-last order, so a run is reproducible.
class FreeList {
 public:
  explicit FreeList(std::uint32_t count) : count_(count), taken_(count, false) {
    free_.reserve(count);
    for (std::uint32_t number = count; number-- > 0;) free_.push_back(number);
  }

  std::uint32_t free() const { return static_cast<std::uint32_t>(free_.size()); }
  std::uint32_t used() const { return count_ - free(); }
  std::uint32_t total() const { return count_; }

  std::uint32_t take() {
    FULGUR_ASSERT(!free_.empty(), "nothing free");
    const std::uint32_t number = free_.back();
    free_.pop_back();
    taken_[number] = true;
    return number;
  }

  void give_back(std::uint32_t number) {
    FULGUR_ASSERT(number < count_ && taken_[number], "given back twice");
    taken_[number] = false;
    free_.push_back(number);
  }

 private:
  std::uint32_t count_;
  std::vector<std::uint32_t> free_;
  std::vector<bool> taken_;
};

}  // namespace fulgur::attention
