#include "services/attention/parked_snapshots.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

#include "common/wire/codec.hpp"
#include "services/attention/scheduler.hpp"

namespace fulgur::attention {
namespace {

wire::SnapshotReply refuse(std::uint64_t transfer, const Status& why) {
  wire::SnapshotReply reply;
  reply.transfer = transfer;
  reply.state = wire::SnapshotState::refused;
  reply.code = why.code();
  reply.message = why.message();
  return reply;
}

}  // namespace

ParkedSnapshots::ParkedSnapshots(ParkedLimits limits, StateShape shape,
                                 wire::SnapshotIdentity identity, const Clock& clock)
    : limits_(limits), shape_(std::move(shape)), identity_(std::move(identity)), clock_(clock) {}

Status ParkedSnapshots::admit(transport::LinkId link, const wire::SnapshotOffer& offer,
                              std::uint64_t bytes) const {
  wire::SnapshotIdentity wanted = identity_;
  wanted.prefix_hash = offer.identity.prefix_hash;
  wanted.length = offer.identity.length;
  if (offer.identity != wanted) {
    return error(Code::failed_precondition, "the state is of another model, version or form");
  }
  if (offer.layer_bytes != shape_.layer_bytes(offer.identity.length)) {
    return error(Code::invalid_argument, "the state has not the size of {} tokens",
                 offer.identity.length);
  }
  const auto arriving =
      std::ranges::count_if(arriving_, [link](const auto& it) { return it.first.first == link; });
  if (arriving >= limits_.arriving_max) {
    return error(Code::resource_exhausted, "{} states are arriving from there already", arriving);
  }
  if (held_->count >= limits_.snapshots_max || bytes > limits_.bytes_max - held_->bytes) {
    return error(Code::resource_exhausted, "no room for a state of {} bytes", bytes);
  }
  return Status::ok();
}

std::shared_ptr<SequenceSnapshot> ParkedSnapshots::reserve(std::uint64_t bytes) {
  held_->bytes += bytes;
  ++held_->count;
  return {new SequenceSnapshot, [held = held_, bytes](SequenceSnapshot* snapshot) {
            held->bytes -= bytes;
            --held->count;
            delete snapshot;
          }};
}

wire::SnapshotReply ParkedSnapshots::on_offer(transport::LinkId link,
                                              const wire::SnapshotOffer& offer) {
  const Key key{link, offer.transfer};
  if (arriving_.erase(key) > 0) {  // an id is used once: neither of the two is to be believed
    ++stats_.malformed_total;
    return refuse(offer.transfer, error(Code::invalid_argument, "the transfer is known already"));
  }
  const std::uint64_t token_bytes = offer.identity.length * sizeof(std::uint32_t);
  const std::uint64_t bytes =
      std::accumulate(offer.layer_bytes.begin(), offer.layer_bytes.end(), token_bytes);
  if (Status admitted = admit(link, offer, bytes); !admitted.is_ok()) {
    ++stats_.refused_total;
    return refuse(offer.transfer, admitted);
  }
  Transfer& transfer = arriving_[key];
  transfer.snapshot = reserve(bytes);
  transfer.snapshot->identity = offer.identity;
  transfer.snapshot->layers.resize(offer.layer_bytes.size());
  transfer.section_bytes = {token_bytes};
  transfer.section_bytes.insert(transfer.section_bytes.end(), offer.layer_bytes.begin(),
                                offer.layer_bytes.end());
  transfer.heard = clock_.now();
  wire::SnapshotReply reply;
  reply.transfer = offer.transfer;
  reply.state = wire::SnapshotState::accepted;
  reply.credit = limits_.credit_bytes;
  return reply;
}

std::optional<wire::SnapshotReply> ParkedSnapshots::on_chunk(transport::LinkId link,
                                                             const wire::SnapshotChunk& chunk) {
  const auto found = arriving_.find({link, chunk.transfer});
  if (found == arriving_.end()) {
    ++stats_.malformed_total;
    return std::nullopt;
  }
  Transfer& transfer = found->second;
  Status good;
  try {
    good = append(transfer, chunk);
  } catch (const std::bad_alloc&) {
    good = error(Code::resource_exhausted, "no memory for a section of {} bytes",
                 transfer.section_bytes[transfer.section]);
  }
  const bool whole = transfer.section == transfer.section_bytes.size();
  if (good.is_ok() && whole) good = finish(transfer);
  if (!good.is_ok()) {
    ++(good.code() == Code::resource_exhausted ? stats_.refused_total : stats_.malformed_total);
    arriving_.erase(found);
    return refuse(chunk.transfer, good);
  }
  wire::SnapshotReply reply;
  reply.transfer = chunk.transfer;
  reply.state = wire::SnapshotState::received;
  reply.received = transfer.received;
  if (whole) {
    reply.state = wire::SnapshotState::parked;
    reply.snapshot = next_id_++;
    parked_[reply.snapshot] = {std::move(transfer.snapshot), link, chunk.transfer, clock_.now()};
    ++stats_.parked_total;
    arriving_.erase(found);
  }
  return reply;
}

Status ParkedSnapshots::append(Transfer& transfer, const wire::SnapshotChunk& chunk) {
  if (chunk.section != transfer.section || chunk.offset != transfer.offset) {
    return error(Code::data_loss, "bytes of section {} at {} where section {} at {} was due",
                 chunk.section, chunk.offset, transfer.section, transfer.offset);
  }
  const std::uint64_t size = transfer.section_bytes[transfer.section];
  if (chunk.bytes.size > size - transfer.offset) {
    return error(Code::data_loss, "more bytes than section {} has", chunk.section);
  }
  if (wire::checksum(chunk.bytes.bytes()) != chunk.checksum) {
    return error(Code::data_loss, "damaged bytes in section {}", chunk.section);
  }
  auto& into = transfer.section == 0 ? transfer.tokens
                                     : transfer.snapshot->layers[transfer.section - 1];
  if (transfer.offset == 0) into.reserve(size);  // memory is taken as it is filled
  into.insert(into.end(), chunk.bytes.data, chunk.bytes.data + chunk.bytes.size);
  transfer.offset += chunk.bytes.size;
  transfer.received += chunk.bytes.size;
  stats_.bytes_total += chunk.bytes.size;
  transfer.heard = clock_.now();
  skip_filled_sections(transfer);
  return Status::ok();
}

void ParkedSnapshots::skip_filled_sections(Transfer& transfer) {
  while (transfer.section < transfer.section_bytes.size() &&
         transfer.offset == transfer.section_bytes[transfer.section]) {
    ++transfer.section;
    transfer.offset = 0;
  }
}

Status ParkedSnapshots::finish(Transfer& transfer) {
  SequenceSnapshot& snapshot = *transfer.snapshot;
  snapshot.tokens.resize(snapshot.identity.length);
  std::memcpy(snapshot.tokens.data(), transfer.tokens.data(), transfer.tokens.size());
  if (hash_prefix(snapshot.tokens) == snapshot.identity.prefix_hash) return Status::ok();
  return error(Code::data_loss, "the tokens are not those of the offer");
}

void ParkedSnapshots::on_drop(transport::LinkId link, const wire::SnapshotDrop& drop) {
  stats_.lost_total += arriving_.erase({link, drop.transfer});
  std::erase_if(parked_, [&](const auto& item) {
    return item.second.link == link && item.second.transfer == drop.transfer;
  });
}

void ParkedSnapshots::on_link_down(transport::LinkId link) {
  stats_.lost_total +=
      std::erase_if(arriving_, [link](const auto& item) { return item.first.first == link; });
}

void ParkedSnapshots::expire() {
  const Nanoseconds now = clock_.now();
  stats_.lost_total += std::erase_if(arriving_, [&](const auto& item) {
    return now - item.second.heard > limits_.silence_max;
  });
  stats_.expired_total += std::erase_if(
      parked_, [&](const auto& item) { return now - item.second.since > limits_.ttl; });
}

std::shared_ptr<SequenceSnapshot> ParkedSnapshots::take(std::uint64_t id,
                                                        std::span<const std::uint32_t> tokens) {
  const auto found = parked_.find(id);
  const auto begins = [&](const SequenceSnapshot& snapshot) {
    return snapshot.tokens.size() < tokens.size() &&
           std::ranges::equal(snapshot.tokens, tokens.first(snapshot.tokens.size()));
  };
  if (found == parked_.end() || !begins(*found->second.snapshot)) {
    ++stats_.missed_total;
    return nullptr;
  }
  ++stats_.restored_total;
  auto snapshot = std::move(found->second.snapshot);
  parked_.erase(found);
  return snapshot;
}

}  // namespace fulgur::attention
