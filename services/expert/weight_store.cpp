#include "services/expert/weight_store.hpp"

#include <algorithm>

namespace fulgur::expert {
namespace {

kernels::HostMatrix view(const model::Tensor& tensor) {
  return {tensor.data, tensor.dtype, tensor.shape[0], tensor.shape[1]};
}

}  // namespace

ReplicaSet::ReplicaSet(std::uint32_t layers, std::uint32_t experts)
    : layers_(layers), experts_(experts), bits_(words(layers, experts)) {}

std::size_t ReplicaSet::words(std::uint32_t layers, std::uint32_t experts) {
  return (std::size_t{layers} * experts + 63) / 64;
}

Result<ReplicaSet> ReplicaSet::from_bitmap(std::uint32_t layers, std::uint32_t experts,
                                           std::vector<std::uint64_t> bits) {
  if (bits.size() != words(layers, experts)) {
    return error(Code::invalid_argument, "replica bitmap has {} words, {} layers x {} experts need {}",
                 bits.size(), layers, experts, words(layers, experts));
  }
  ReplicaSet set(layers, experts);
  set.bits_ = std::move(bits);
  return set;
}

std::size_t ReplicaSet::index(ReplicaId id) const {
  FULGUR_ASSERT(id.layer < layers_ && id.expert < experts_, "replica outside the model");
  return std::size_t{id.layer} * experts_ + id.expert;
}

bool ReplicaSet::contains(ReplicaId id) const {
  const std::size_t at = index(id);
  return ((bits_[at / 64] >> (at % 64)) & 1U) != 0;
}

void ReplicaSet::insert(ReplicaId id) {
  const std::size_t at = index(id);
  bits_[at / 64] |= std::uint64_t{1} << (at % 64);
}

std::vector<ReplicaId> ReplicaSet::list() const {
  std::vector<ReplicaId> ids;
  for (std::uint32_t layer = 0; layer < layers_; ++layer) {
    for (std::uint32_t expert = 0; expert < experts_; ++expert) {
      if (contains({layer, expert})) ids.push_back({layer, expert});
    }
  }
  return ids;
}

WeightStore::WeightStore(std::uint32_t layers, std::uint32_t experts)
    : layers_(layers), experts_(experts), weights_(std::size_t{layers} * experts) {}

std::shared_ptr<const kernels::Expert> WeightStore::find(ReplicaId id) const {
  if (id.layer >= layers_ || id.expert >= experts_) return nullptr;
  return weights_[std::size_t{id.layer} * experts_ + id.expert];
}

void WeightStore::insert(ReplicaId id, std::shared_ptr<const kernels::Expert> weights) {
  auto& place = weights_.at(std::size_t{id.layer} * experts_ + id.expert);
  if (place) held_bytes_ -= place->bytes();
  place = std::move(weights);
  held_bytes_ += place->bytes();
}

void WeightStore::retain(const ReplicaSet& keep) {
  for (const ReplicaId id : held()) {
    if (keep.contains(id)) continue;
    auto& place = weights_[std::size_t{id.layer} * experts_ + id.expert];
    held_bytes_ -= place->bytes();
    place.reset();
  }
}

std::vector<ReplicaId> WeightStore::held() const {
  std::vector<ReplicaId> ids;
  for (std::uint32_t at = 0; at < weights_.size(); ++at) {
    if (weights_[at]) ids.push_back({at / experts_, at % experts_});
  }
  return ids;
}

Result<std::shared_ptr<const kernels::Expert>> load_expert(const model::Checkpoint& checkpoint,
                                                           ReplicaId id, kernels::Backend& backend) {
  FULGUR_ASSIGN_OR_RETURN(const model::ExpertTensors tensors, checkpoint.expert(id.layer, id.expert));
  try {
    return std::shared_ptr<const kernels::Expert>(
        backend.pack_expert(view(tensors.gate), view(tensors.up), view(tensors.down)));
  } catch (const std::bad_alloc& full) {  // a GPU's message says how much it has
    return error(Code::resource_exhausted, "expert {} of layer {} does not fit: {}", id.expert,
                 id.layer, full.what());
  }
}

ReplicaLoader::ReplicaLoader(std::shared_ptr<const model::Checkpoint> checkpoint,
                             std::unique_ptr<kernels::Backend> packer,
                             std::uint64_t bytes_per_second, OnLoaded on_loaded)
    : checkpoint_(std::move(checkpoint)),
      packer_(std::move(packer)),
      on_loaded_(std::move(on_loaded)),
      bucket_(bytes_per_second),
      thread_([this] { run(); }) {}

ReplicaLoader::~ReplicaLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void ReplicaLoader::load(std::vector<ReplicaId> ids, std::size_t urgent) {
  std::reverse(ids.begin(), ids.end());
  {
    const std::lock_guard lock(mutex_);
    waiting_ = std::move(ids);
    urgent_ = std::min(urgent, waiting_.size());
  }
  changed_.notify_one();
}

/// 0 when the next replica may be loaded now, and its bytes are taken from the budget.
Nanoseconds ReplicaLoader::wait_for_budget() {
  const std::uint64_t bytes = checkpoint_->expert_bytes();
  if (urgent_ == 0) return bucket_.take(bytes, clock_.now());
  --urgent_;
  bucket_.charge(bytes);
  return 0;
}

void ReplicaLoader::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    if (const Nanoseconds wait = wait_for_budget(); wait > 0) {
      // A new list, which may be urgent, ends the wait.
      changed_.wait_for(lock, std::chrono::nanoseconds(wait));
      continue;
    }
    const ReplicaId id = waiting_.back();
    waiting_.pop_back();
    lock.unlock();
    on_loaded_(id, load_expert(*checkpoint_, id, *packer_));
    lock.lock();
  }
}

}  // namespace fulgur::expert
