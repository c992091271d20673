// The message that travels the layers: some tokens of some sequences, their hidden states, and what
// the layers and the expert dispatch leave for each other. One exists per lane and is reused, so a
// steady state allocates nothing. Exactly one actor works on a micro-batch at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "common/wire/messages.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/sequence_trace.hpp"

namespace fulgur::attention {

using SequenceId = std::uint64_t;

/// Consecutive tokens of one sequence in a micro-batch.
struct Slice {
  SequenceId sequence = 0;
  std::uint32_t slot = 0;      ///< lightning state slot
  std::uint32_t row = 0;       ///< first row in the micro-batch
  std::uint32_t rows = 0;
  std::uint64_t position = 0;  ///< of the first token in its sequence
  const std::vector<std::uint32_t>* pages = nullptr;  ///< KV pages; the sequence owns the list
  std::uint32_t logits_rows = 0;  ///< how many of its last rows need logits
};

/// A sequence's whole state outside the engine, with what identifies it (invariant I4).
struct SequenceSnapshot {
  wire::SnapshotIdentity identity;
  std::vector<std::uint32_t> tokens;  ///< [identity.length] that the state has seen
  std::vector<std::vector<std::byte>> layers;  ///< [layers] slot or page bytes

  std::size_t bytes() const {
    std::size_t total = 0;
    for (const auto& layer : layers) total += layer.size();
    return total;
  }
};

enum class Work : std::uint8_t {
  forward,   ///< compute the slices
  snapshot,  ///< copy the state of slices[0] into `snapshot`
  restore,   ///< copy `snapshot` into the state of slices[0]
};

struct MicroBatch {
  std::uint32_t lane = 0;
  Work work = Work::forward;
  std::vector<Slice> slices;
  std::vector<std::uint32_t> tokens;  ///< [rows] input ids
  std::shared_ptr<SequenceSnapshot> snapshot;
  bool capture = false;  ///< the snapshot is for the prompt cache; the sequence goes on
  std::int64_t deadline_ns = 0;  ///< wall clock; the latest of its sequences, 0: none
  BatchTrace trace;              ///< empty unless one of its sequences is sampled

  // Activations, float32 row-major, in the backend's memory.
  kernels::Buffer<float> h;       ///< [rows, hidden] residual stream between layers
  kernels::Buffer<float> y;       ///< [rows, hidden] normed input of the experts
  const float* residual = nullptr;  ///< [rows, hidden] what the expert output is added to

  // Routing of the layer in progress.
  std::vector<std::uint16_t> experts;  ///< [rows, k]
  std::vector<float> weights;          ///< [rows, k]
  std::vector<const std::byte*> outputs;  ///< [rows * k] expert outputs, un-reduced
  std::vector<wire::Frame> frames;        ///< keeps `outputs` alive
  std::uint32_t routes_missing = 0;

  /// Set when the experts could not be reached in time, or (resource_exhausted) when a step was
  /// refused memory. What the layers have of the batch's new tokens is of no use then.
  Status failure;

  std::uint32_t rows() const { return static_cast<std::uint32_t>(tokens.size()); }
  bool lacked_memory() const { return failure.code() == Code::resource_exhausted; }
};

/// Takes a step of a batch. False when there was no memory for it, which is the batch's failure
/// then.
template <class Step>
bool attempt(MicroBatch& batch, const Step& step) {
  try {
    step();
    return true;
  } catch (const std::bad_alloc& refused) {
    batch.failure = {Code::resource_exhausted, refused.what()};
    return false;
  }
}

using MicroBatchPtr = std::shared_ptr<MicroBatch>;

}  // namespace fulgur::attention
