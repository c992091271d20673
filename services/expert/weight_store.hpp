// The expert replicas a worker holds, and the thread that loads more of them off the serving path.
// WeightStore belongs to the reactor thread; ReplicaLoader's thread only reads the checkpoint and
// packs, and hands finished experts over through its callback.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/checkpoint.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/expert/byte_bucket.hpp"

namespace fulgur::expert {

/// (layer, expert) of the model.
struct ReplicaId {
  std::uint32_t layer = 0;
  std::uint32_t expert = 0;
  friend bool operator==(const ReplicaId&, const ReplicaId&) = default;
};

/// Set of replicas as it travels on the wire: bit (layer * experts + expert).
class ReplicaSet {
 public:
  ReplicaSet(std::uint32_t layers, std::uint32_t experts);
  /// invalid_argument when the bitmap's size does not fit layers x experts.
  static Result<ReplicaSet> from_bitmap(std::uint32_t layers, std::uint32_t experts,
                                        std::vector<std::uint64_t> bits);

  bool contains(ReplicaId id) const;
  void insert(ReplicaId id);
  std::vector<ReplicaId> list() const;
  static std::size_t words(std::uint32_t layers, std::uint32_t experts);

 private:
  std::size_t index(ReplicaId id) const;

  std::uint32_t layers_;
  std::uint32_t experts_;
  std::vector<std::uint64_t> bits_;
};

/// Packed weights by (layer, expert).
class WeightStore {
 public:
  WeightStore(std::uint32_t layers, std::uint32_t experts);

  /// nullptr when this worker does not hold the replica.
  std::shared_ptr<const kernels::Expert> find(ReplicaId id) const;
  void insert(ReplicaId id, std::shared_ptr<const kernels::Expert> weights);
  /// Frees everything that `keep` does not name.
  void retain(const ReplicaSet& keep);

  std::vector<ReplicaId> held() const;
  std::uint64_t held_bytes() const { return held_bytes_; }
  std::uint32_t layers() const { return layers_; }
  std::uint32_t experts() const { return experts_; }

 private:
  std::uint32_t layers_;
  std::uint32_t experts_;
  std::vector<std::shared_ptr<const kernels::Expert>> weights_;  ///< [layers * experts]
  std::uint64_t held_bytes_ = 0;
};

/// Maps one expert of the checkpoint and packs it for `backend`.
Result<std::shared_ptr<const kernels::Expert>> load_expert(const model::Checkpoint& checkpoint,
                                                           ReplicaId id, kernels::Backend& backend);

/// Where replicas come from that an orchestrator asks for, off the serving path.
class ReplicaSource {
 public:
  /// Called for each replica, in order, from any thread.
  using OnLoaded = std::function<void(ReplicaId, Result<std::shared_ptr<const kernels::Expert>>)>;

  virtual ~ReplicaSource() = default;
  /// Replaces whatever was still waiting to be loaded. The first `urgent` are waited for by
  /// requests. Reactor thread.
  virtual void load(std::vector<ReplicaId> ids, std::size_t urgent) = 0;
};

/// Loads lists of replicas one after another on its own thread, with its own packing backend: what
/// is urgent as fast as it can, the rest at a bounded rate, so that serving does not suffer.
class ReplicaLoader final : public ReplicaSource {
 public:
  /// bytes_per_second 0: no bound.
  ReplicaLoader(std::shared_ptr<const model::Checkpoint> checkpoint,
                std::unique_ptr<kernels::Backend> packer, std::uint64_t bytes_per_second,
                OnLoaded on_loaded);
  ~ReplicaLoader() override;
  ReplicaLoader(const ReplicaLoader&) = delete;
  ReplicaLoader& operator=(const ReplicaLoader&) = delete;

  void load(std::vector<ReplicaId> ids, std::size_t urgent) override;

 private:
  void run();
  Nanoseconds wait_for_budget();

  std::shared_ptr<const model::Checkpoint> checkpoint_;
  std::unique_ptr<kernels::Backend> packer_;
  OnLoaded on_loaded_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ReplicaId> waiting_;  ///< in reverse: the next one is at the back
  std::size_t urgent_ = 0;          ///< of them, at the back
  ByteBucket bucket_;
  const RealClock clock_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace fulgur::expert
