// Which (layer, expert) replicas somebody holds: the bitmap of wire::WorkerEntry as a value.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "common/base/assert.hpp"

namespace fulgur::orchestrator {

/// Size of the expert grid of a model.
struct ModelShape {
  std::uint32_t layers = 0;
  std::uint32_t experts = 0;  ///< per layer
  std::uint64_t cells() const { return std::uint64_t{layers} * experts; }
  friend bool operator==(const ModelShape&, const ModelShape&) = default;
};

class ReplicaMap {
 public:
  ReplicaMap() = default;
  explicit ReplicaMap(ModelShape shape) : shape_(shape), words_((shape.cells() + 63) / 64) {}

  const ModelShape& shape() const { return shape_; }
  /// Bit (layer * experts + expert), low bit first.
  const std::vector<std::uint64_t>& words() const { return words_; }

  bool contains(std::uint32_t layer, std::uint32_t expert) const {
    return layer < shape_.layers && expert < shape_.experts && test(cell(layer, expert));
  }
  void add(std::uint32_t layer, std::uint32_t expert) {
    FULGUR_ASSERT(layer < shape_.layers && expert < shape_.experts, "replica outside the model");
    words_[cell(layer, expert) / 64] |= 1ULL << (cell(layer, expert) % 64);
  }
  void add(const ReplicaMap& other) {
    FULGUR_ASSERT(shape_ == other.shape_, "replica maps of different models");
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }

  std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t word : words_) sum += static_cast<unsigned>(std::popcount(word));
    return sum;
  }
  std::uint32_t count_in_layer(std::uint32_t layer) const {
    std::uint32_t sum = 0;
    for (std::uint32_t expert = 0; expert < shape_.experts; ++expert)
      sum += contains(layer, expert) ? 1 : 0;
    return sum;
  }
  /// Replicas of this map that `other` lacks.
  std::uint64_t count_missing_in(const ReplicaMap& other) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < words_.size(); ++i)
      sum += static_cast<unsigned>(std::popcount(words_[i] & ~other.words_[i]));
    return sum;
  }

  friend bool operator==(const ReplicaMap&, const ReplicaMap&) = default;

 private:
  std::uint64_t cell(std::uint32_t layer, std::uint32_t expert) const {
    return std::uint64_t{layer} * shape_.experts + expert;
  }
  bool test(std::uint64_t cell) const { return (words_[cell / 64] >> (cell % 64) & 1) != 0; }

  ModelShape shape_;
  std::vector<std::uint64_t> words_;
};

}  // namespace fulgur::orchestrator
