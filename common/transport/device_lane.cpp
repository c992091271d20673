#include "common/transport/device_lane.hpp"

#include <algorithm>
#include <utility>

#include "common/transport/event.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::transport {
namespace {

/// Keeps a delivered tensor's memory and, when its last owner is gone, gives its credit back.
struct Lease {
  Lease(std::shared_ptr<std::byte> memory, std::shared_ptr<DeviceReturns> returns,
        std::uint64_t sequence)
      : memory(std::move(memory)), returns(std::move(returns)), sequence(sequence) {}
  ~Lease() { returns->put(sequence); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  std::shared_ptr<std::byte> memory;
  std::shared_ptr<DeviceReturns> returns;
  std::uint64_t sequence;
};

}  // namespace

void DeviceReturns::put(std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  if (bell_ == nullptr) return;
  sequences_.push_back(sequence);
  bell_->ring();
}

std::vector<std::uint64_t> DeviceReturns::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(sequences_, {});
}

void DeviceReturns::close() {
  const std::lock_guard lock(mutex_);
  bell_ = nullptr;
}

DeviceRemains DeviceLaneParts::stop() && {
  if (out) out->abort();
  if (in) in->abort();
  DeviceRemains remains{std::move(out), std::move(in), {}};
  if (ring) remains.held.push_back(std::move(ring));
  return remains;
}

DeviceLane::DeviceLane(DeviceLaneParts parts, GpuApi& gpu, const LinkLimits& limits, Doorbell& bell,
                       Say say)
    : parts_(std::move(parts)),
      gpu_(gpu),
      limits_(limits),
      say_(std::move(say)),
      returns_(std::make_shared<DeviceReturns>(bell)),
      window_out_(parts_.window_out),
      receipts_(parts_.window_in) {}

DeviceLane::~DeviceLane() { returns_->close(); }

Result<bool> DeviceLane::joined() {
  FULGUR_ASSIGN_OR_RETURN(const bool out, parts_.out->idle());
  FULGUR_ASSIGN_OR_RETURN(const bool in, parts_.in->idle());
  return out && in;
}

// ---------------------------------------------------------------- out

Status DeviceLane::send(DeviceKind kind, wire::Frames frames) {
  const auto tensor = std::ranges::find_if(frames, wire::is_device);
  Outbound message{kind, {}, static_cast<std::size_t>(tensor - frames.begin())};
  if (tensor != frames.end()) {
    if (std::any_of(tensor + 1, frames.end(), wire::is_device)) {
      return {Code::invalid_argument, "a message with two tensors in device memory"};
    }
    if (tensor->size == 0 || tensor->size > window_out_.largest()) {
      return error(Code::invalid_argument, "a tensor of {} bytes, the window takes {}",
                   tensor->size, window_out_.largest());
    }
  }
  const std::size_t bytes = bytes_of(frames);
  if (frames.size() >= wire::kMaxFrames || bytes > wire::kMaxMessageBytes - sizeof(DeviceHeader)) {
    return error(Code::invalid_argument, "message of {} bytes in {} frames", bytes, frames.size());
  }
  if (!waiting_.empty() &&
      (waiting_.size() >= limits_.queue_messages || waiting_bytes_ + bytes > limits_.queue_bytes)) {
    return {Code::resource_exhausted, "send queue is full"};
  }
  message.frames = std::move(frames);
  if (waiting_.empty() && !message.has_tensor()) {
    return say(message, {.kind = kind, .attempt = attempt(), .released = receipts_.report()});
  }
  waiting_.push_back(std::move(message));
  waiting_bytes_ += bytes;
  return pump_out();
}

/// The host frames behind their header; the link beside refuses when it is full.
Status DeviceLane::say(const Outbound& message, const DeviceHeader& header) {
  wire::Frames frames;
  frames.reserve(message.frames.size() + 1);
  frames.push_back(encode_header(header));
  for (const wire::Frame& frame : message.frames) {
    if (!wire::is_device(frame)) frames.push_back(frame);
  }
  return say_(std::move(frames));
}

/// Whether the first waiting message could be sent. It is said first, so that the peer prepares its
/// side meanwhile; a transfer that then does not start ends the link.
Result<bool> DeviceLane::send_first() {
  Outbound& message = waiting_.front();
  DeviceHeader header{.kind = message.kind, .attempt = attempt()};
  DeviceWindow window = window_out_;
  if (message.has_tensor()) {
    const wire::Frame& tensor = message.frames[message.device];
    if (!window.fits(tensor.size)) return false;
    FULGUR_ASSIGN_OR_RETURN(const bool idle, parts_.out->idle());
    if (!idle) return false;
    header.frame = static_cast<std::uint16_t>(message.device);
    header.sequence = started_ + 1;
    header.offset = window.take(tensor.size);
    header.bytes = tensor.size;
  }
  header.released = receipts_.window().released();
  const Status said = say(message, header);
  if (said.code() == Code::resource_exhausted) return false;
  FULGUR_RETURN_IF_ERROR(said);
  receipts_.report();
  if (!message.has_tensor()) return true;
  const wire::Frame& tensor = message.frames[message.device];
  window_out_.take(tensor.size);
  ++started_;
  bytes_sent_ += tensor.size;
  source_bytes_ += tensor.size;
  sources_.push_back(tensor);
  FULGUR_RETURN_IF_ERROR(
      parts_.out->start({tensor.data, nullptr, header.offset, tensor.size, tensor.ready}));
  return true;
}

Status DeviceLane::pump_out() {
  while (!waiting_.empty()) {
    FULGUR_ASSIGN_OR_RETURN(const bool sent, send_first());
    if (!sent) break;
    waiting_bytes_ -= bytes_of(waiting_.front().frames);
    waiting_.pop_front();
  }
  return Status::ok();
}

// ---------------------------------------------------------------- in

Status DeviceLane::receive(const DeviceHeader& header, wire::Frames frames) {
  if (!window_out_.release_to(header.released)) {
    return error(Code::data_loss, "the peer gives back {} of {} bytes", header.released,
                 window_out_.end());
  }
  if (header.kind == DeviceKind::credit) return Status::ok();
  Inbound message{header.kind, std::move(frames), 0, header.sequence, header.bytes, nullptr};
  if (header.sequence != 0) {
    const bool fits = header.bytes != 0 && receipts_.window().fits(header.bytes);
    if (header.sequence != next_in_ || !fits || header.frame > message.frames.size() ||
        message.frames.size() >= wire::kMaxFrames) {
      return error(Code::data_loss, "tensor {} of {} bytes when {} was due", header.sequence,
                   header.bytes, next_in_);
    }
    const std::uint64_t offset = receipts_.take(header.bytes);
    if (offset != header.offset) return {Code::data_loss, "a tensor out of its place"};
    ++next_in_;
    bytes_received_ += header.bytes;
    message.device = header.frame;
    if (parts_.ring) {
      message.memory = {parts_.ring, parts_.ring.get() + offset};
      ++placed_;
    }
  } else if (header.bytes != 0 || message.frames.empty()) {
    return {Code::data_loss, "a device header without its message"};
  }
  announced_.push_back(std::move(message));
  return Status::ok();
}

/// nccl: every announced tensor gets a block and a receive, in order.
Status DeviceLane::start_receives() {
  for (Inbound& message : announced_) {
    if (message.sequence == 0 || message.sequence <= placed_) continue;
    FULGUR_ASSIGN_OR_RETURN(const bool idle, parts_.in->idle());
    if (!idle) break;
    FULGUR_ASSIGN_OR_RETURN(message.memory, gpu_.take(message.bytes));
    ++placed_;
    FULGUR_RETURN_IF_ERROR(
        parts_.in->start({nullptr, message.memory.get(), 0, message.bytes, nullptr}));
  }
  return Status::ok();
}

wire::Frames DeviceLane::complete(Inbound& message) {
  wire::Frames frames = std::move(message.frames);
  if (message.sequence == 0) return frames;
  const std::byte* data = message.memory.get();
  auto lease = std::make_shared<const Lease>(std::move(message.memory), returns_, message.sequence);
  const wire::Frame tensor{std::move(lease), data, message.bytes, MemoryKind::device, nullptr};
  frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(message.device), tensor);
  return frames;
}

Status DeviceLane::pump_in(const Sink& sink) {
  if (placed_ + 1 < next_in_) FULGUR_RETURN_IF_ERROR(start_receives());
  if (arrived_ < placed_) {
    FULGUR_ASSIGN_OR_RETURN(arrived_, parts_.in->completed());
    arrived_ = std::min(arrived_, placed_);
  }
  while (!announced_.empty() && announced_.front().sequence <= arrived_) {
    Inbound message = std::move(announced_.front());
    announced_.pop_front();
    const DeviceKind kind = message.kind;
    sink(kind, complete(message));
  }
  return Status::ok();
}

Status DeviceLane::take_returns() {
  for (const std::uint64_t sequence : returns_->take()) receipts_.release(sequence);
  if (!receipts_.report_due()) return Status::ok();
  const DeviceHeader header{
      .kind = DeviceKind::credit, .attempt = attempt(), .released = receipts_.window().released()};
  const Status said = say_({encode_header(header)});
  if (said.code() == Code::resource_exhausted) return Status::ok();  // at the next pump
  if (said.is_ok()) receipts_.report();
  return said;
}

// ---------------------------------------------------------------- both

Status DeviceLane::pump(const Sink& sink) {
  if (!sources_.empty()) {
    FULGUR_ASSIGN_OR_RETURN(const std::uint64_t done, parts_.out->completed());
    for (; sent_ < std::min(done, started_); ++sent_) {
      source_bytes_ -= sources_.front().size;
      sources_.pop_front();
    }
  }
  FULGUR_RETURN_IF_ERROR(pump_in(sink));
  FULGUR_RETURN_IF_ERROR(take_returns());
  return pump_out();
}

bool DeviceLane::busy() const {
  return !sources_.empty() || !waiting_.empty() || arrived_ + 1 < next_in_ ||
         receipts_.report_due();
}

DeviceRemains DeviceLane::stop() {
  returns_->close();
  DeviceRemains remains = std::move(parts_).stop();
  for (auto& source : sources_) remains.held.push_back(std::move(source.owner));
  for (auto& message : announced_) {
    if (message.memory) remains.held.push_back(std::move(message.memory));
  }
  sources_.clear();
  announced_.clear();
  waiting_.clear();
  return remains;
}

}  // namespace fulgur::transport
