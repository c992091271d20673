#include "tests/unit/transport/fake_gpu.hpp"

#include <algorithm>

namespace fulgur::transport {

// ---------------------------------------------------------------- fabric

void FakeFabric::step() {
  const std::vector<FakeChannel*> all(channels.begin(), channels.end());
  std::vector<FakeChannel*> order;
  for (FakeChannel* channel : all) {
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(below(order.size() + 1)), channel);
  }
  for (FakeChannel* channel : order) {
    if (chance(700)) channel->step();
  }
}

void FakeFabric::calm() {
  faults = {};
  for (FakeChannel* channel : channels) channel->calm();
}

std::shared_ptr<std::byte> FakeFabric::allocate(std::size_t bytes) {
  ++live_blocks;
  auto block = memory.allocate(bytes);
  fill(block.get(), bytes, std::byte{0xdd});
  auto* start = block.get();
  return {start, [this, bytes, block = std::move(block)](std::byte* freed) {
            check_free(freed, bytes);
            fill(freed, bytes, std::byte{0xee});
            --live_blocks;
          }};
}

void FakeFabric::fill(std::byte* block, std::size_t bytes, std::byte value) const {
  const std::vector<std::byte> pattern(bytes, value);
  memory.write(block, pattern.data(), bytes);
}

void FakeFabric::check_free(const std::byte* block, std::size_t bytes) {
  for (const FakeChannel* channel : channels) {
    if (channel->touches(block, bytes)) violations.emplace_back("a block in use was freed");
  }
}

// ---------------------------------------------------------------- channels

FakeChannel::FakeChannel(FakeFabric& fabric, Kind kind, std::string name)
    : fabric_(fabric), kind_(kind), name_(std::move(name)), join_steps_(fabric.below(6)) {
  const FakeFaults& faults = fabric_.faults;
  if (fabric_.chance(faults.start_fails)) fails_at_ = 1 + fabric_.below(12);
  if (fabric_.chance(faults.channel_dies)) dies_at_ = 1 + fabric_.below(12);
  if (fabric_.chance(faults.hangs)) hangs_at_ = 1 + fabric_.below(12);
  if (fabric_.chance(faults.never_joins)) join_steps_ = ~std::uint64_t{0};
  damages_ = fabric_.chance(faults.damages_probe);
  if (kind_ == Kind::send) fabric_.pairs[name_].sender = this;
  if (kind_ == Kind::receive) fabric_.pairs[name_].receiver = this;
  if (kind_ == Kind::put || kind_ == Kind::inbox) ring_ = fabric_.rings.at(name_).lock();
  // Only ends that start transfers can have these faults.
  if (kind_ == Kind::inbox) fails_at_ = dies_at_ = hangs_at_ = 0;
  fabric_.channels.insert(this);
}

FakeChannel::~FakeChannel() {
  if (!aborted_ || abort_steps_ != 0)
    fabric_.violations.emplace_back("a channel was destroyed before it stopped");
  fabric_.channels.erase(this);
  if (kind_ == Kind::send) fabric_.pairs[name_].sender = nullptr;
  if (kind_ == Kind::receive) fabric_.pairs[name_].receiver = nullptr;
}

void FakeChannel::calm() {
  for (std::uint64_t* at : {&fails_at_, &dies_at_, &hangs_at_}) {
    if (*at > started_) *at = 0;
  }
}

bool FakeChannel::joined() const {
  if (join_steps_ != 0) return false;
  if (kind_ == Kind::put || kind_ == Kind::inbox) return true;
  const auto& pair = fabric_.pairs.at(name_);
  return pair.sender != nullptr && pair.receiver != nullptr;
}

Result<bool> FakeChannel::idle() {
  if (aborted_) fabric_.violations.emplace_back("idle() after abort()");
  if (broken_ || (dies_at_ != 0 && started_ >= dies_at_))
    return Status{Code::internal, "the channel died"};
  // NCCL may still be setting a connection up after a start.
  return joined() && !(running_.size() == 1 && !running_[0].half && fabric_.chance(200));
}

Status FakeChannel::start(const GpuTransfer& transfer) {
  if (aborted_ || kind_ == Kind::inbox) fabric_.violations.emplace_back("start() is not due");
  ++started_;
  if (fails_at_ == started_) return {Code::internal, "the transfer does not start"};
  if (kind_ == Kind::put && transfer.offset + transfer.bytes > ring_->bytes) {
    fabric_.violations.emplace_back("a put past the ring");
  }
  const bool hangs = hangs_at_ == started_;
  if (hangs) ++fabric_.hanging;
  running_.push_back({transfer, fabric_.below(fabric_.faults.steps_most + 1), hangs, false});
  return Status::ok();
}

Result<std::uint64_t> FakeChannel::completed() {
  if (aborted_) fabric_.violations.emplace_back("completed() after abort()");
  if (broken_ || (dies_at_ != 0 && started_ >= dies_at_))
    return Status{Code::internal, "the channel died"};
  return kind_ == Kind::inbox ? ring_->completed : completed_;
}

void FakeChannel::abort() {
  aborted_ = true;
  abort_steps_ = running_.empty() ? 0 : fabric_.below(fabric_.faults.abort_steps_most + 1);
}

bool FakeChannel::stopped() {
  if (!aborted_ || abort_steps_ == 0) return aborted_;
  --abort_steps_;  // time passes for whoever waits
  return false;
}

bool FakeChannel::touches(const std::byte* block, std::size_t bytes) const {
  if (aborted_ && abort_steps_ == 0) return false;
  return std::ranges::any_of(running_, [&](const Running& run) {
    const std::byte* at = kind_ == Kind::receive ? run.transfer.target : run.transfer.source;
    return at < block + bytes && block < at + run.transfer.bytes;
  });
}

/// Half of a transfer's bytes early, the rest when it ends, as they are at that time.
void FakeChannel::move_bytes(const Running& source, std::byte* target, bool last_half) {
  const std::size_t half = source.transfer.bytes / 2;
  const std::size_t from = last_half ? half : 0;
  const std::size_t count = last_half ? source.transfer.bytes - half : half;
  std::vector<std::byte> bytes(count);
  fabric_.memory.read(bytes.data(), source.transfer.source + from, count);
  if (damages_ && completed_ == 0 && count != 0) bytes[0] ^= std::byte{0x10};
  fabric_.memory.write(target + from, bytes.data(), count);
}

void FakeChannel::step() {
  if (aborted_) {
    if (abort_steps_ != 0) --abort_steps_;
    return;
  }
  if (join_steps_ != 0 && join_steps_ != ~std::uint64_t{0}) --join_steps_;
  if (running_.empty() || kind_ == Kind::receive) return;
  Running& run = running_.front();
  std::byte* target = nullptr;
  FakeChannel* receiver = nullptr;
  if (kind_ == Kind::put) {
    target = ring_->memory.get() + run.transfer.offset;
  } else {
    receiver = fabric_.pairs.at(name_).receiver;
    if (receiver == nullptr || receiver->aborted_ || receiver->running_.empty()) return;
    if (receiver->running_.front().transfer.bytes != run.transfer.bytes) {
      fabric_.violations.emplace_back("a send met a receive of another size");
      return;
    }
    if (receiver->running_.front().hangs) return;
    target = receiver->running_.front().transfer.target;
  }
  if (!std::exchange(run.half, true)) move_bytes(run, target, false);
  if (run.hangs) return;
  if (run.steps != 0) {
    --run.steps;
    return;
  }
  move_bytes(run, target, true);
  ++completed_;
  ++fabric_.transfers;
  running_.erase(running_.begin());
  if (kind_ == Kind::put) ring_->completed = completed_;
  if (receiver != nullptr) {
    receiver->running_.erase(receiver->running_.begin());
    ++receiver->completed_;
  }
}

// ---------------------------------------------------------------- gpu

Status FakeGpu::maybe_fail(const char* what) {
  if (!fabric_.chance(fabric_.faults.call_fails)) return Status::ok();
  return error(Code::internal, "{} fails", what);
}

Result<GpuInbox> FakeGpu::make_inbox(std::size_t bytes, const std::string&) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("make_inbox"));
  const std::string token = "ring-" + std::to_string(fabric_.next_name++);
  auto ring = std::make_shared<FakeFabric::Ring>();
  ring->memory = fabric_.allocate(bytes);
  ring->bytes = bytes;
  fabric_.rings[token] = ring;
  GpuInbox inbox;
  inbox.ring = ring->memory;
  inbox.token = token;
  inbox.channel = std::make_unique<FakeChannel>(fabric_, FakeChannel::Kind::inbox, token);
  return inbox;
}

Result<std::unique_ptr<GpuChannel>> FakeGpu::open_outbox(const std::string& token,
                                                         std::size_t bytes) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("open_outbox"));
  const auto found = fabric_.rings.find(token);
  const auto ring = found == fabric_.rings.end() ? nullptr : found->second.lock();
  if (!ring || ring->bytes != bytes || ring->opened) {
    return Status{Code::data_loss, "no such ring"};
  }
  ring->opened = true;
  return std::unique_ptr<GpuChannel>(
      std::make_unique<FakeChannel>(fabric_, FakeChannel::Kind::put, token));
}

Result<std::string> FakeGpu::make_id() {
  FULGUR_RETURN_IF_ERROR(maybe_fail("make_id"));
  return "pair-" + std::to_string(fabric_.next_name++);
}

Result<std::unique_ptr<GpuChannel>> FakeGpu::join(const std::string& id, bool sends) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("join"));
  if (!id.starts_with("pair-")) return Status{Code::data_loss, "no such id"};
  const auto kind = sends ? FakeChannel::Kind::send : FakeChannel::Kind::receive;
  return std::unique_ptr<GpuChannel>(std::make_unique<FakeChannel>(fabric_, kind, id));
}

Result<std::shared_ptr<std::byte>> FakeGpu::take(std::size_t bytes) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("take"));
  return fabric_.allocate(bytes);
}

Status FakeGpu::upload(std::byte* device, const void* host, std::size_t bytes) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("upload"));
  fabric_.memory.write(device, host, bytes);
  return Status::ok();
}

Status FakeGpu::download(void* host, const std::byte* device, std::size_t bytes, void*) {
  FULGUR_RETURN_IF_ERROR(maybe_fail("download"));
  fabric_.memory.read(host, device, bytes);
  return Status::ok();
}

}  // namespace fulgur::transport
