// The shard's end: starts workers, measures, kills them.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <utility>

#include "bench/gpu/transport/gpu_transport.hpp"
#include "common/base/rng.hpp"
#include "common/wire/codec.hpp"

extern char** environ;

namespace fulgur::bench {
namespace {

using transport::LinkId;

constexpr Nanoseconds kPatience = 60 * kSecond;
constexpr Nanoseconds kDeathSeen = 2 * kSecond;  ///< a killed peer must be noticed by then

double us(Nanoseconds time) { return static_cast<double>(time) / kMicrosecond; }

double percentile(std::vector<double>& sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  const auto at = static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1));
  return sorted.empty() ? 0 : sorted[at];
}

class Shard final : public transport::Handler {
 public:
  Shard(GpuTransportOptions options, std::string carrier, std::uint64_t window_bytes)
      : options_(std::move(options)), carrier_(std::move(carrier)), window_bytes_(window_bytes) {}

  ~Shard() override {
    for (auto& worker : workers_) stop(worker);
  }

  Status start() {
    FULGUR_ASSIGN_OR_RETURN(end_, make_gpu_end("attention-0", "", options_.devices[0], carrier_,
                                               window_bytes_, options_.nccl_blocks));
    for (std::size_t at = 1; at < options_.devices.size(); ++at) {
      Worker worker;
      worker.device = options_.devices[at];
      worker.endpoint = fmt::format("ipc:///tmp/fulgur-gpu-bench-{}-{}-{}", getpid(), carrier_, at);
      FULGUR_RETURN_IF_ERROR(spawn(worker));
      FULGUR_ASSIGN_OR_RETURN(
          worker.link, end_.transport->connect(worker.endpoint, transport::Carrier::automatic));
      workers_.push_back(worker);
    }
    return wait_until_up();
  }

  Status wait_until_up() {
    if (!pump([&] { return std::ranges::all_of(workers_, &Worker::up); })) {
      return {Code::deadline_exceeded, "a worker does not come up"};
    }
    for (const Worker& worker : workers_) {
      if (worker.carrier != wanted()) {
        return {Code::failed_precondition, "a link came up with another carrier: see the log"};
      }
    }
    return Status::ok();
  }

  /// One dispatch of `tokens` rows to every worker and all answers back.
  Result<Nanoseconds> round(std::uint32_t tokens, GpuMode mode) {
    const std::size_t bytes = tokens * kRowBytes;
    std::map<std::uint64_t, wire::Frame> tensors;
    for (std::size_t at = 0; at < workers_.size(); ++at) {
      const std::uint64_t id = next_id_++;
      FULGUR_ASSIGN_OR_RETURN(tensors[id], tensor(id, bytes, mode));
    }
    waiting_ = tensors.size();
    mode_ = mode;
    const Nanoseconds begin = clock_.now();
    auto worker = workers_.begin();
    for (const auto& [id, block] : tensors) {
      FULGUR_RETURN_IF_ERROR(send(*worker++, id, tokens, mode, block));
    }
    if (!pump([&] { return waiting_ == 0; })) {
      return Status{Code::deadline_exceeded, "no answer"};
    }
    FULGUR_RETURN_IF_ERROR(failure_);
    return clock_.now() - begin;
  }

  GpuTransportRow round_trips(std::uint32_t tokens) {
    GpuTransportRow row{carrier_, "round_trip", tokens, 0, 0, 0, 0, ""};
    row.bytes = 3 * tokens * kRowBytes * workers_.size();
    const int rounds = std::clamp<int>(static_cast<int>((std::uint64_t{16} << 30) / row.bytes), 20,
                                       options_.rounds);
    std::vector<double> times;
    Status status;
    for (int at = 0; at < 3 && status.is_ok(); ++at)
      status = round(tokens, GpuMode::check).status();
    for (int at = 0; at < 20 + rounds && status.is_ok(); ++at) {
      const auto time = round(tokens, GpuMode::echo);
      status = time.status();
      if (status.is_ok() && at >= 20) times.push_back(us(*time));
    }
    if (status.is_ok()) status = round(tokens, GpuMode::check).status();
    row.note = status.is_ok() ? "" : status.to_string();
    row.p50_us = percentile(times, 0.5);
    row.p99_us = percentile(times, 0.99);
    if (row.p50_us > 0) row.gb_per_s = static_cast<double>(row.bytes) / row.p50_us / 1e3;
    return row;
  }

  /// Dispatches one behind the other to one worker, as fast as credits allow.
  GpuTransportRow one_way(std::uint32_t tokens) {
    const std::size_t bytes = tokens * kRowBytes;
    const auto count = static_cast<std::size_t>(
        std::clamp<std::uint64_t>(options_.one_way_bytes / bytes, 8, 4000));
    GpuTransportRow row{carrier_, "one_way", tokens, count * bytes, 0, 0, 0, ""};
    auto block = tensor(0, bytes, GpuMode::sink);
    Status status = block.status();
    mode_ = GpuMode::sink;
    waiting_ = count;
    const Nanoseconds begin = clock_.now();
    for (std::size_t at = 0; at < count && status.is_ok(); ++at) {
      do {
        status = send(workers_[0], next_id_, tokens, GpuMode::sink, *block);
        if (status.code() == Code::resource_exhausted) poll();
      } while (status.code() == Code::resource_exhausted);
      ++next_id_;
    }
    if (status.is_ok() && !pump([&] { return waiting_ == 0; })) {
      status = {Code::deadline_exceeded, "no answer"};
    }
    const Nanoseconds time = clock_.now() - begin;
    row.p50_us = us(time) / static_cast<double>(count);
    row.gb_per_s = static_cast<double>(row.bytes) / static_cast<double>(time);
    row.note = status.is_ok() ? failure_.message() : status.to_string();
    return row;
  }

  /// kill -9 of a worker while large dispatches are on their way: how long until the link is down
  /// and its memory free, and whether a new worker can be used afterwards.
  GpuTransportRow killed(std::uint32_t tokens, int at) {
    GpuTransportRow row{carrier_, "killed", tokens, 0, 0, 0, 0, ""};
    Worker& worker = workers_[static_cast<std::size_t>(at) % workers_.size()];
    Status status;
    mode_ = GpuMode::echo;
    waiting_ = 1U << 20;  // answers are not waited for
    for (int n = 0; n < 6 && status.is_ok(); ++n) {
      auto block = tensor(next_id_, tokens * kRowBytes, GpuMode::echo);
      status = block.status();
      if (status.is_ok()) status = send(worker, next_id_++, tokens, GpuMode::echo, *block);
      if (status.code() == Code::resource_exhausted) status = Status::ok();
    }
    const Nanoseconds until =
        clock_.now() + static_cast<Nanoseconds>(random_bits(7, static_cast<std::uint64_t>(at)) %
                                                (2 * kMillisecond));
    while (clock_.now() < until) poll();
    const Nanoseconds begin = clock_.now();
    kill(worker.pid, SIGKILL);
    if (!pump([&] { return !worker.up; })) row.note = "the link stays up";
    row.p50_us = us(clock_.now() - begin);
    if (!pump([&] { return end_.transport->unburied() == 0; })) row.note = "memory is not let go";
    row.p99_us = us(clock_.now() - begin);
    if (row.p50_us > us(kDeathSeen)) row.note = "the death was seen late";
    waitpid(worker.pid, nullptr, 0);
    worker.pid = 0;
    waiting_ = 0;
    if (status.is_ok()) status = spawn(worker);
    if (status.is_ok()) status = wait_until_up();
    if (status.is_ok()) status = round(16, GpuMode::check).status();
    if (!status) row.note = status.to_string();
    return row;
  }

  void on_link_up(LinkId link, const transport::Peer& peer) override {
    for (Worker& worker : workers_) {
      if (worker.link != link) continue;
      worker.up = true;
      worker.carrier = peer.device;
    }
  }
  void on_link_down(LinkId link, const Status&) override {
    for (Worker& worker : workers_) {
      if (worker.link == link) worker.up = false;
    }
  }
  void on_message(LinkId, wire::Frames frames) override {
    if (waiting_ != 0) --waiting_;
    auto message = wire::decode(std::move(frames));
    if (!message) {
      failure_ = message.status();
    } else if (const auto* combine = std::get_if<wire::Combine>(&message->body)) {
      const auto outputs = on_device(end_, combine->outputs);
      if (!outputs) failure_ = outputs.status();
      if (outputs.is_ok() && mode_ == GpuMode::check) verify(combine->id, *outputs);
    } else if (mode_ != GpuMode::sink) {
      failure_ = {Code::data_loss, "the worker refuses: what it got was damaged"};
    }
  }

 private:
  struct Worker {
    int device = 0;
    std::string endpoint;
    LinkId link = 0;
    pid_t pid = 0;
    bool up = false;
    transport::DeviceCarrier carrier = transport::DeviceCarrier::none;
  };

  transport::DeviceCarrier wanted() const {
    if (carrier_ == "peer") return transport::DeviceCarrier::peer;
    return carrier_ == "nccl" ? transport::DeviceCarrier::nccl : transport::DeviceCarrier::none;
  }

  Status spawn(Worker& worker) {
    std::vector<std::string> words = {"/proc/self/exe", "--serve",
                                      worker.endpoint,  fmt::format("--device={}", worker.device),
                                      "--carriers",     carrier_,
                                      "--window",       std::to_string(window_bytes_),
                                      "--nccl-blocks",  std::to_string(options_.nccl_blocks)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int failed = posix_spawn(&worker.pid, argv[0], nullptr, nullptr, argv.data(), environ);
    if (failed == 0) return Status::ok();
    return error(Code::unavailable, "cannot start a worker: error {}", failed);
  }

  static void stop(Worker& worker) {
    if (worker.pid == 0) return;
    kill(worker.pid, SIGKILL);
    waitpid(worker.pid, nullptr, 0);
    unlink(worker.endpoint.substr(6).c_str());
  }

  /// The tensor of a dispatch; checked ones are new and full of their id's words.
  Result<wire::Frame> tensor(std::uint64_t id, std::size_t bytes, GpuMode mode) {
    if (mode != GpuMode::check && same_.size == bytes) return same_;
    auto block = end_.pool->take(bytes);
    const auto words = gpu_pattern(id, bytes);
    FULGUR_RETURN_IF_ERROR(end_.gpu->upload(block.get(), words.data(), bytes));
    const auto* data = block.get();
    wire::Frame frame{std::move(block), data, bytes, MemoryKind::device, nullptr};
    if (mode != GpuMode::check) same_ = frame;
    return frame;
  }

  Status send(const Worker& worker, std::uint64_t id, std::uint32_t tokens, GpuMode mode,
              const wire::Frame& block) {
    wire::Dispatch dispatch;
    dispatch.id = id;
    dispatch.layer = static_cast<std::uint32_t>(mode);
    dispatch.rows = tokens;
    dispatch.hidden = kHidden;
    dispatch.routes.resize(std::size_t{2} * tokens);
    for (std::uint32_t at = 0; at < 2 * tokens; ++at) {
      dispatch.routes[at] = {at / 2, static_cast<std::uint16_t>(at % 2), 0};
    }
    dispatch.activations = block;
    wire::Message message;
    message.sender = "attention-0";
    message.body = std::move(dispatch);
    return end_.transport->send(worker.link, wire::encode(message));
  }

  void verify(std::uint64_t id, const wire::Frame& outputs) {
    std::vector<std::uint64_t> got(outputs.size / 8);
    const Status read = end_.gpu->download(got.data(), outputs.data, outputs.size, outputs.ready);
    if (!read) failure_ = read;
    if (got != gpu_pattern(~id, outputs.size)) {
      failure_ = {Code::data_loss, "outputs arrived damaged"};
    }
  }

  void poll() {
    if (end_.transport->poll(*this, 16) == 0) end_.transport->doorbell().wait(kMillisecond);
  }

  template <class Done>
  bool pump(Done done) {
    const Nanoseconds end = clock_.now() + kPatience;
    while (!done()) {
      if (clock_.now() > end) return false;
      poll();
    }
    return true;
  }

  const GpuTransportOptions options_;
  const std::string carrier_;
  const std::uint64_t window_bytes_;
  RealClock clock_;
  GpuEnd end_;
  wire::Frame same_;
  std::vector<Worker> workers_;
  std::uint64_t next_id_ = 1;
  std::size_t waiting_ = 0;
  GpuMode mode_ = GpuMode::echo;
  Status failure_;
};

/// 8/3 of the largest tensor, what comes back being twice what goes out.
std::uint64_t window_for(const GpuTransportOptions& options) {
  const std::uint64_t tokens = std::ranges::max(options.tokens);
  const std::uint64_t needed = 2 * tokens * kRowBytes * 8 / 3 + 4096;
  const std::uint64_t window = std::max<std::uint64_t>(needed, options.window_bytes);
  return (window + (2U << 20) - 1) / (2U << 20) * (2U << 20);
}

}  // namespace

Result<std::vector<GpuTransportRow>> bench_gpu_transport(const GpuTransportOptions& options) {
  if (options.devices.size() < 2 || options.tokens.empty()) {
    return Status{Code::invalid_argument, "a shard's GPU, a worker's and a size are needed"};
  }
  std::vector<GpuTransportRow> rows;
  for (const std::string& carrier : options.carriers) {
    Shard shard(options, carrier, window_for(options));
    if (const Status started = shard.start(); !started) {
      rows.push_back({carrier, "round_trip", 0, 0, 0, 0, 0, started.to_string()});
      continue;
    }
    bool lost = false;
    for (const std::uint32_t tokens : options.tokens) {
      if (lost) break;
      rows.push_back(shard.round_trips(tokens));
      lost = !rows.back().note.empty();
      if (lost || carrier == "none" || tokens < 128) continue;
      rows.push_back(shard.one_way(tokens));
    }
    const std::uint32_t large = std::min<std::uint32_t>(1024, std::ranges::max(options.tokens));
    for (int at = 0; at < options.kills && !lost; ++at) {
      rows.push_back(shard.killed(large, at));
      lost = !rows.back().note.empty();
    }
  }
  return rows;
}

}  // namespace fulgur::bench
