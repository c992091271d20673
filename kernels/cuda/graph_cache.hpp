// Which launches are worth a CUDA graph, and the graphs made of them so far. Launches that come
// again with every argument the same are recorded at their third appearance and replayed by one
// call after that; whatever cannot be recorded is launched one by one, as it would be without this
// class. It knows nothing of CUDA: stream_graph.hpp records. One thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <type_traits>
#include <unordered_map>

#include "common/base/assert.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cuda {

/// All that some launches are made from: every argument of a kernel, and whatever chooses a kernel
/// or its grid. What lies behind an address belongs to it only where the host reads it.
class GraphKey {
 public:
  template <class... Values>
  explicit GraphKey(const Values&... values) {
    add(values...);
  }
  template <class... Values>
  void add(const Values&... values) {
    (add_word(values), ...);
  }

  bool operator==(const GraphKey& other) const {
    return count_ == other.count_ &&
           std::memcmp(words_.data(), other.words_.data(), count_ * sizeof(std::uint64_t)) == 0;
  }
  std::size_t hash() const;

 private:
  template <class Value>
  void add_word(const Value& value) {
    static_assert(std::is_scalar_v<Value> && sizeof(Value) <= sizeof(std::uint64_t));
    FULGUR_ASSERT(count_ < words_.size(), "a graph's key has more words than there is room for");
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);  // the bits: 0 and -0 are different arguments
    words_[count_++] = word;
  }

  std::array<std::uint64_t, 48> words_{};  ///< the first count_ of them
  std::size_t count_ = 0;
};

/// Launches that were recorded.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Launches them all, or nothing and returns false: memory was refused.
  virtual bool launch() = 0;
  /// Memory of the device that went while it was made: 0 for most, the driver takes it in chunks.
  virtual std::size_t bytes() const = 0;
};

class GraphCache {
 public:
  using Launches = std::function<void()>;
  /// Records what a call of it would launch, which is not launched; null: not to be had now.
  using Record = std::function<std::unique_ptr<Graph>(const Launches&)>;

  /// Keeps graphs_max graphs at most, which is not 0.
  GraphCache(std::size_t graphs_max, Record record);

  /// Launches `launches`, which depend on `key` alone. What they throw when nothing is recorded,
  /// this throws.
  void run(const GraphKey& key, const Launches& launches);
  /// Forgets all graphs and keys; counts go on.
  void clear();
  const GraphCounts& counts() const { return counts_; }

 private:
  struct Entry {
    GraphKey key;
    std::unique_ptr<Graph> graph;     ///< null: not recorded
    std::uint64_t appearances = 0;    ///< without a graph
    std::uint64_t record_at = 0;      ///< the appearance that is recorded
    std::uint64_t last_appeared = 0;  ///< by runs_
  };
  using Entries = std::list<Entry>;  ///< latest first
  struct Hash {
    std::size_t operator()(const GraphKey& key) const { return key.hash(); }
  };

  bool replay(Entries::iterator entry);
  bool may_record();
  void record(Entries::iterator entry, const Launches& launches);
  void refuse(Entry& entry);
  Entries::iterator seen(const GraphKey& key);
  void drop_last(Entries& entries);

  const std::size_t graphs_max_;
  const Record record_;
  Entries recorded_;
  Entries seen_;  ///< keys without a graph
  std::unordered_map<GraphKey, Entries::iterator, Hash> entries_;
  std::uint64_t runs_ = 0;
  GraphCounts counts_;
};

}  // namespace fulgur::kernels::cuda
