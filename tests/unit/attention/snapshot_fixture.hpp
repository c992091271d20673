// States of sequences without a model: bytes that depend on the tokens and the layer alone, as a
// real state does, and the messages that carry them.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "common/base/rng.hpp"
#include "common/wire/codec.hpp"
#include "services/attention/scheduler.hpp"
#include "services/attention/state_shape.hpp"

namespace fulgur::attention {

/// Two lightning layers and a softmax layer, of odd sizes.
inline StateShape test_shape() {
  StateShape shape;
  shape.layers = {{model::AttentionKind::lightning, 1000},
                  {model::AttentionKind::softmax, 300},
                  {model::AttentionKind::lightning, 333}};
  return shape;
}

inline wire::SnapshotIdentity test_identity() {
  return {11, 22, "cpu-test", test_shape().layout(), 0, 0};
}

inline std::vector<std::uint32_t> tokens_of(std::uint64_t seed, std::uint32_t count) {
  Rng rng(seed);
  std::vector<std::uint32_t> tokens(count);
  for (auto& token : tokens) token = static_cast<std::uint32_t>(rng.below(100));
  return tokens;
}

/// What a step of Work::snapshot leaves in `snapshot`, whose tokens and identity are set.
inline void fill_layers(SequenceSnapshot& snapshot) {
  const auto sizes = test_shape().layer_bytes(snapshot.identity.length);
  snapshot.layers.resize(sizes.size());
  for (std::size_t layer = 0; layer < sizes.size(); ++layer) {
    snapshot.layers[layer].resize(sizes[layer]);
    std::uint64_t bits = mix64(snapshot.identity.prefix_hash ^ layer);
    for (auto& byte : snapshot.layers[layer]) byte = static_cast<std::byte>(bits = mix64(bits));
  }
}

inline SequenceSnapshot snapshot_of(const std::vector<std::uint32_t>& tokens) {
  SequenceSnapshot snapshot;
  snapshot.tokens = tokens;
  snapshot.identity = test_identity();
  snapshot.identity.length = tokens.size();
  snapshot.identity.prefix_hash = hash_prefix(tokens);
  fill_layers(snapshot);
  return snapshot;
}

/// Bytes that the state of `length` tokens counts for.
inline std::uint64_t state_bytes(std::uint64_t length) {
  const auto sizes = test_shape().layer_bytes(length);
  return std::accumulate(sizes.begin(), sizes.end(), length * sizeof(std::uint32_t));
}

inline wire::SnapshotOffer offer_of(const SequenceSnapshot& snapshot, std::uint64_t transfer) {
  wire::SnapshotOffer offer;
  offer.transfer = transfer;
  offer.identity = snapshot.identity;
  for (const auto& layer : snapshot.layers) offer.layer_bytes.push_back(layer.size());
  return offer;
}

/// `snapshot` outlives them.
inline std::vector<wire::SnapshotChunk> chunks_of(const SequenceSnapshot& snapshot,
                                                  std::uint64_t transfer,
                                                  std::size_t chunk_bytes = 256) {
  std::vector<wire::SnapshotChunk> chunks;
  for (std::uint32_t section = 0; section <= snapshot.layers.size(); ++section) {
    const auto bytes = section == 0 ? std::as_bytes(std::span(snapshot.tokens))
                                    : std::span<const std::byte>(snapshot.layers[section - 1]);
    for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
      const auto part = bytes.subspan(at, std::min(chunk_bytes, bytes.size() - at));
      chunks.push_back({transfer, section, at, wire::checksum(part),
                        {nullptr, part.data(), part.size()}});
    }
  }
  return chunks;
}

}  // namespace fulgur::attention
