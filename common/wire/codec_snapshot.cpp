// SnapshotOffer, SnapshotChunk, SnapshotReply, SnapshotDrop <-> their schema.
#include <cstring>

#include "common/base/rng.hpp"
#include "common/wire/codec.hpp"
#include "common/wire/codec_detail.hpp"

namespace fulgur::wire {

std::uint64_t checksum(std::span<const std::byte> bytes) {
  // Four sums, so that a word need not wait for the one before it: memory speed, nearly.
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15ULL;
  std::size_t at = 0;
  for (; at + sizeof(lanes) <= bytes.size(); at += sizeof(lanes)) {
    std::uint64_t words[4];
    std::memcpy(words, bytes.data() + at, sizeof(words));
    for (std::size_t lane = 0; lane < 4; ++lane) {
      lanes[lane] = (lanes[lane] ^ words[lane]) * kOdd;
      lanes[lane] ^= lanes[lane] >> 29;
    }
  }
  std::uint64_t tail = bytes.size();
  for (; at < bytes.size(); ++at) tail = mix64(tail ^ static_cast<std::uint64_t>(bytes[at]));
  for (const std::uint64_t lane : lanes) tail = mix64(tail ^ lane);
  return tail;
}

}  // namespace fulgur::wire

namespace fulgur::wire::detail {

void put(schema::SnapshotOffer::Builder to, const SnapshotOffer& from) {
  to.setTransfer(from.transfer);
  auto identity = to.initIdentity();
  identity.setModelFingerprint(from.identity.model_fingerprint);
  identity.setWeightVersion(from.identity.weight_version);
  identity.setNumerics(text(from.identity.numerics));
  identity.setLayout(from.identity.layout);
  identity.setPrefixHash(from.identity.prefix_hash);
  identity.setLength(from.identity.length);
  auto layers = to.initLayerBytes(static_cast<unsigned>(from.layer_bytes.size()));
  for (unsigned i = 0; i < layers.size(); ++i) layers.set(i, from.layer_bytes[i]);
}

Status get(schema::SnapshotOffer::Reader from, SnapshotOffer& to) {
  to.transfer = from.getTransfer();
  const auto identity = from.getIdentity();
  to.identity.model_fingerprint = identity.getModelFingerprint();
  to.identity.weight_version = identity.getWeightVersion();
  FULGUR_RETURN_IF_ERROR(read_text(identity.getNumerics(), kMaxNameBytes,
                                   "snapshot.identity.numerics", to.identity.numerics));
  to.identity.layout = identity.getLayout();
  to.identity.prefix_hash = identity.getPrefixHash();
  to.identity.length = identity.getLength();
  return read_numbers(from.getLayerBytes(), kMaxLayers, "snapshot.layer_bytes", to.layer_bytes);
}

void put(schema::SnapshotChunk::Builder to, const SnapshotChunk& from, EncodeContext& context) {
  to.setTransfer(from.transfer);
  to.setSection(from.section);
  to.setOffset(from.offset);
  to.setChecksum(from.checksum);
  if (from.bytes.size != 0) to.adoptBytes(reference(context, from.bytes));
}

Status get(schema::SnapshotChunk::Reader from, const Frames& frames, SnapshotChunk& to) {
  to.transfer = from.getTransfer();
  to.section = from.getSection();
  to.offset = from.getOffset();
  to.checksum = from.getChecksum();
  to.bytes = frame_of(frames, from.getBytes());
  return Status::ok();
}

void put(schema::SnapshotReply::Builder to, const SnapshotReply& from) {
  to.setTransfer(from.transfer);
  to.setState(static_cast<schema::SnapshotState>(from.state));
  to.setCode(static_cast<std::uint8_t>(from.code));
  to.setMessage(text(from.message));
  to.setReceived(from.received);
  to.setCredit(from.credit);
  to.setSnapshot(from.snapshot);
}

Status get(schema::SnapshotReply::Reader from, SnapshotReply& to) {
  to.transfer = from.getTransfer();
  to.state = read_enum<SnapshotState>(from.getState());
  to.code = static_cast<Code>(from.getCode());
  to.received = from.getReceived();
  to.credit = from.getCredit();
  to.snapshot = from.getSnapshot();
  return read_text(from.getMessage(), kMaxTextBytes, "snapshot_reply.message", to.message);
}

void put(schema::SnapshotDrop::Builder to, const SnapshotDrop& from) {
  to.setTransfer(from.transfer);
}

Status get(schema::SnapshotDrop::Reader from, SnapshotDrop& to) {
  to.transfer = from.getTransfer();
  return Status::ok();
}

}  // namespace fulgur::wire::detail
