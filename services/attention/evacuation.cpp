#include "services/attention/evacuation.hpp"

#include <algorithm>

#include "common/wire/codec.hpp"

namespace fulgur::attention {
namespace {

/// The bytes of one section, kept alive by the snapshot.
std::span<const std::byte> section_of(const SequenceSnapshot& snapshot, std::uint32_t section) {
  if (section == 0) return std::as_bytes(std::span(snapshot.tokens));
  return snapshot.layers[section - 1];
}

std::size_t sections(const SequenceSnapshot& snapshot) { return 1 + snapshot.layers.size(); }

}  // namespace

Evacuation::Evacuation(EvacuationOptions options, Scheduler& scheduler, const Clock& clock,
                       Hooks hooks)
    : options_(options),
      scheduler_(scheduler),
      clock_(clock),
      hooks_(std::move(hooks)),
      started_(clock.now()) {}

void Evacuation::set_targets(const std::vector<wire::ShardEntry>& shards) {
  for (auto& [name, target] : targets_) {
    const auto named = std::ranges::find(shards, name, &wire::ShardEntry::name);
    if (named == shards.end() || named->endpoint != target.endpoint) target.closed = true;
  }
  for (const wire::ShardEntry& shard : shards) {
    Target& target = targets_[shard.name];
    if (target.endpoint == shard.endpoint) continue;
    const std::uint64_t given = target.given;
    target = {shard.endpoint, hooks_.connect(shard.endpoint), false, false, clock_.now(), given};
    target.closed = target.link == 0;
  }
}

void Evacuation::on_link_up(transport::LinkId link) {
  for (auto& [name, target] : targets_) {
    if (target.link != link) continue;
    target.up = true;
    target.closed = false;  // a new life of it, perhaps
  }
}

void Evacuation::on_link_down(transport::LinkId link) {
  for (auto& [name, target] : targets_) {
    if (target.link != link) continue;
    target.up = false;
    target.since = clock_.now();
  }
  for (auto& [id, transfer] : transfers_) {
    if (transfer.link != link || transfer.phase == Phase::leaving) continue;
    ++stats_.broken_total;
    try_another(transfer);
  }
}

bool Evacuation::any_up() const {
  return std::ranges::any_of(targets_, [](const auto& item) {
    return item.second.up && !item.second.closed;
  });
}

bool Evacuation::hopeful() const {
  return std::ranges::any_of(targets_, [this](const auto& item) {
    const Target& target = item.second;
    if (target.closed) return false;
    return target.up || clock_.now() - target.since < options_.connect_patience;
  });
}

bool Evacuation::out_of_time() const { return clock_.now() - started_ >= options_.grace; }

void Evacuation::advance() {
  forget_ended();
  if (out_of_time()) return hand_back_all();
  if (!hopeful()) return stay();
  if (!any_up()) return;
  hand_back_queue();
  begin_transfers();
  for (auto it = transfers_.begin(); it != transfers_.end();) drive(it++);
}

/// Sequences that were cancelled, or whose deadline passed, or that finished before they left.
void Evacuation::forget_ended() {
  std::erase_if(transfers_, [this](auto& item) {
    if (scheduler_.find(item.second.sequence) != nullptr) return false;
    drop_at_target(item.first, item.second);
    ++stats_.ended_total;
    return true;
  });
}

void Evacuation::stay() {
  for (auto& [id, transfer] : transfers_) {
    drop_at_target(id, transfer);
    scheduler_.stay(*scheduler_.find(transfer.sequence));
  }
  transfers_.clear();
}

void Evacuation::hand_back_queue() {
  for (const SequenceId id : scheduler_.ids()) {
    if (scheduler_.find(id)->state != SequenceState::waiting) continue;
    ++stats_.handed_total;
    hooks_.hand_over(id, "", 0);
  }
}

void Evacuation::hand_back_all() {
  for (auto& [id, transfer] : transfers_) drop_at_target(id, transfer);
  transfers_.clear();
  for (const SequenceId id : scheduler_.ids()) {
    if (scheduler_.find(id)->lane) continue;  // when its micro-batch is back
    ++stats_.handed_total;
    hooks_.hand_over(id, "", 0);
  }
}

void Evacuation::begin_transfers() {
  for (const SequenceId id : scheduler_.ids()) {
    if (transfers_.size() >= options_.transfers_max) return;
    Sequence& sequence = *scheduler_.find(id);
    if (sequence.departing || sequence.cancelled) continue;
    scheduler_.depart(sequence);
    Transfer& transfer = transfers_[next_transfer_++];
    transfer.sequence = id;
    transfer.started = clock_.now();
  }
}

bool Evacuation::drive(Transfers::iterator at) {
  Transfer& transfer = at->second;
  const Sequence& sequence = *scheduler_.find(transfer.sequence);
  if (sequence.state != SequenceState::departed) return true;
  const bool silent = transfer.phase != Phase::leaving &&
                      clock_.now() - transfer.heard > options_.silence_max;
  if (silent) {
    ++stats_.broken_total;
    drop_at_target(at->first, transfer);
    targets_[transfer.target].closed = true;
    try_another(transfer);
  }
  if (transfer.phase == Phase::leaving) {
    transfer.snapshot = sequence.snapshot;
    if (transfer.snapshot == nullptr || !offer(at->first, transfer)) {
      finish(at, "", 0);
      return false;
    }
  }
  if (transfer.phase == Phase::sending) send_chunks(at->first, transfer);
  return true;
}

std::map<std::string, Evacuation::Target>::iterator Evacuation::choose(
    const std::set<std::string>& tried) {
  auto chosen = targets_.end();
  for (auto it = targets_.begin(); it != targets_.end(); ++it) {
    if (!it->second.up || it->second.closed || tried.contains(it->first)) continue;
    if (chosen == targets_.end() || it->second.given < chosen->second.given) chosen = it;
  }
  return chosen;
}

/// False when no target is left to ask. A full link is asked again later.
bool Evacuation::offer(std::uint64_t id, Transfer& transfer) {
  wire::SnapshotOffer offer;
  offer.transfer = id;
  offer.identity = transfer.snapshot->identity;
  for (const auto& layer : transfer.snapshot->layers) offer.layer_bytes.push_back(layer.size());
  for (auto at = choose(transfer.tried); at != targets_.end(); at = choose(transfer.tried)) {
    const Status sent = hooks_.send(at->second.link, offer);
    if (sent.code() == Code::resource_exhausted) return true;
    if (!sent.is_ok()) {
      transfer.tried.insert(at->first);
      continue;
    }
    ++at->second.given;
    transfer.phase = Phase::offered;
    transfer.target = at->first;
    transfer.link = at->second.link;
    transfer.heard = clock_.now();
    return true;
  }
  return false;
}

wire::SnapshotChunk Evacuation::next_chunk(std::uint64_t id, const Transfer& transfer) const {
  const auto section = section_of(*transfer.snapshot, transfer.section);
  const std::uint64_t left = section.size() - transfer.offset;
  const auto bytes = section.subspan(transfer.offset, std::min(left, options_.chunk_bytes));
  return {id, transfer.section, transfer.offset, wire::checksum(bytes),
          {transfer.snapshot, bytes.data(), bytes.size()}};
}

void Evacuation::send_chunks(std::uint64_t id, Transfer& transfer) {
  while (transfer.section < sections(*transfer.snapshot)) {
    if (section_of(*transfer.snapshot, transfer.section).size() == transfer.offset) {
      ++transfer.section;
      transfer.offset = 0;
      continue;
    }
    wire::SnapshotChunk chunk = next_chunk(id, transfer);
    const std::uint64_t size = chunk.bytes.size;
    const std::uint64_t unacknowledged = transfer.sent - transfer.received;
    if (unacknowledged > 0 && unacknowledged + size > transfer.credit) return;
    // A full link: go on when it has room. A dead one is reported by its own event.
    if (!hooks_.send(transfer.link, std::move(chunk)).is_ok()) return;
    transfer.offset += size;
    transfer.sent += size;
    stats_.bytes_total += size;
  }
}

void Evacuation::on_reply(transport::LinkId link, const wire::SnapshotReply& reply) {
  forget_ended();
  const auto found = transfers_.find(reply.transfer);
  if (found == transfers_.end() || found->second.link != link ||
      found->second.phase == Phase::leaving) {
    return;  // of a transfer that is over
  }
  Transfer& transfer = found->second;
  transfer.heard = clock_.now();
  switch (reply.state) {
    case wire::SnapshotState::accepted:
      transfer.phase = Phase::sending;
      transfer.credit = reply.credit;
      return;
    case wire::SnapshotState::received:
      transfer.received = std::clamp(reply.received, transfer.received, transfer.sent);
      return;
    case wire::SnapshotState::parked:
      ++stats_.moved_total;
      stats_.pause_ns_total += static_cast<std::uint64_t>(clock_.now() - transfer.started);
      return finish(found, transfer.target, reply.snapshot);
    case wire::SnapshotState::refused:
      ++stats_.refused_total;
      if (reply.code == Code::unavailable) targets_[transfer.target].closed = true;
      return try_another(transfer);
  }
}

void Evacuation::try_another(Transfer& transfer) {
  transfer.tried.insert(transfer.target);
  transfer.phase = Phase::leaving;
  transfer.section = 0;
  transfer.offset = 0;
  transfer.sent = 0;
  transfer.received = 0;
  transfer.credit = 0;
}

void Evacuation::drop_at_target(std::uint64_t id, const Transfer& transfer) {
  if (transfer.phase == Phase::leaving) return;
  // Not sent: the target's own time limits do the same, later.
  static_cast<void>(hooks_.send(transfer.link, wire::SnapshotDrop{id}).is_ok());
}

void Evacuation::finish(Transfers::iterator transfer, std::string moved_to,
                        std::uint64_t snapshot) {
  if (moved_to.empty()) ++stats_.handed_total;
  const SequenceId sequence = transfer->second.sequence;
  transfers_.erase(transfer);
  hooks_.hand_over(sequence, moved_to, snapshot);
}

}  // namespace fulgur::attention
