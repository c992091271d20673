// The shard's process: workers, the shard itself, a client that measures.
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <new>
#include <numeric>
#include <set>

#include "bench/gpu/mesh/client_tap.hpp"
#include "bench/gpu/mesh/gpu_mesh.hpp"
#include "bench/slice/slice_model.hpp"
#include "common/transport/loopback.hpp"
#include "common/wire/codec.hpp"
#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"
#include "services/expert/worker.hpp"

extern char** environ;

namespace fulgur::bench {
namespace {

/// Tokens of a sequence beyond the measurement, so that none ends before the last step of another.
constexpr std::uint32_t kTail = 8;
constexpr std::uint32_t kFirst =
    8;  ///< sequences that every batch has, for a checksum of their own

constexpr std::string_view kScheme = "ipc://";

double ms(Nanoseconds time) { return static_cast<double>(time) / kMillisecond; }

/// A worker's process and its book.
class WorkerProcess {
 public:
  static Result<std::unique_ptr<WorkerProcess>> start(std::vector<std::string> arguments,
                                                      std::string endpoint) {
    std::unique_ptr<WorkerProcess> worker(new WorkerProcess(std::move(endpoint)));
    const int fd = memfd_create("fulgur-worker-book", 0);
    if (fd < 0 || ftruncate(fd, sizeof(WorkerBook)) != 0) return Status{Code::internal, "no book"};
    void* page = mmap(nullptr, sizeof(WorkerBook), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) return Status{Code::internal, "no book"};
    worker->book_ = new (page) WorkerBook;
    arguments.insert(arguments.end(), {"--serve", worker->endpoint_, "--book", std::to_string(fd)});
    std::vector<char*> argv;
    std::string program = "/proc/self/exe";
    argv.push_back(program.data());
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const int failed =
        posix_spawn(&worker->pid_, program.c_str(), nullptr, nullptr, argv.data(), environ);
    ::close(fd);
    if (failed != 0) return Status{Code::internal, "cannot start a worker"};
    return worker;
  }
  ~WorkerProcess() {
    kill();
    unlink(endpoint_.c_str() + kScheme.size());  // a killed process leaves its socket
  }
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  const WorkerBook& book() const { return *book_; }
  /// Whether it has ended by itself.
  bool ended() { return pid_ != 0 && waitpid(pid_, nullptr, WNOHANG) == pid_ && (pid_ = 0, true); }
  void kill() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  explicit WorkerProcess(std::string endpoint) : endpoint_(std::move(endpoint)) {}
  const std::string endpoint_;
  pid_t pid_ = 0;
  WorkerBook* book_ = nullptr;  ///< mapped until the process ends
};

/// Everything that is counted, at one moment.
struct Sample {
  Nanoseconds at = 0;
  std::uint64_t tokens = 0;
  attention::BusyTime busy;
  attention::BubbleTime bubble;
  Nanoseconds dispatching = 0;
  attention::DispatchStats dispatch;
  std::uint64_t rows = 0;
  std::uint64_t micro_batches = 0;
  std::uint64_t bytes_sent = 0;
  std::vector<std::uint64_t> worker_busy_ns;
  std::uint64_t worker_runs = 0;
};

class MeshRun {
 public:
  explicit MeshRun(const GpuMeshOptions& options)
      : options_(options), config_(mesh_model(options)), together_(options.devices.size() == 1) {}
  ~MeshRun() {
    reactor_.reset();  // actors before what they use
    worker_.reset();
    shard_.reset();
    tap_.reset();
  }

  Status start() {
    deadline_ = clock_.now() + options_.patience_s * kSecond;
    FULGUR_RETURN_IF_ERROR(together_ ? open_together() : open_apart());
    tap_ = std::make_unique<ClientTap>(*end_.transport,
                                       [this](wire::Frames frames) { take(std::move(frames)); });
    reactor_ = std::make_unique<actor::Reactor>(*tap_, clock_);
    FULGUR_RETURN_IF_ERROR(start_shard());
    if (together_) FULGUR_RETURN_IF_ERROR(start_own_worker());
    actor::tell(shard_->engine_actor,
                actor::Received<wire::Placement>{0, "orchestrator", 0, {}, placement()});
    return pump([this] { return shard_->experts_reachable; }, "the experts are not reachable");
  }

  Result<nlohmann::json> batch(std::uint32_t sequences) {
    deadline_ = clock_.now() + options_.patience_s * kSecond;
    tokens_.assign(sequences, {});
    done_ = warm_ = measured_ = 0;
    begin_ = end_sample_ = {};
    longest_gap_ = last_token_ = 0;
    kill_due_ = false;
    for (std::uint32_t at = 0; at < sequences; ++at) submit(at);
    FULGUR_RETURN_IF_ERROR(pump([&] { return done_ == sequences; }, "a batch does not end"));
    return row(sequences);
  }

 private:
  // ------------------------------------------------------------------ parts

  Status open_together() {
    FULGUR_ASSIGN_OR_RETURN(end_, open_mesh_device(options_, options_.devices[0]));
    end_.transport = std::make_unique<transport::LoopbackTransport>(
        transport::Identity{wire::ServiceKind::attention, "attention-0", 1});
    return Status::ok();
  }

  Status open_apart() {
    for (std::uint32_t at = 1; at < options_.devices.size(); ++at) {
      const std::string endpoint = fmt::format("{}/tmp/fulgur-gpu-mesh-{}-{}", kScheme, getpid(), at);
      FULGUR_ASSIGN_OR_RETURN(auto worker, WorkerProcess::start(worker_arguments(at), endpoint));
      processes_.push_back(std::move(worker));
    }
    FULGUR_ASSIGN_OR_RETURN(
        end_, open_mesh_end(options_, {wire::ServiceKind::attention, "attention-0"}, "",
                            options_.devices[0]));
    return Status::ok();
  }

  std::vector<std::string> worker_arguments(std::uint32_t at) const {
    std::string devices;
    for (const int device : options_.devices) {
      devices += (devices.empty() ? "" : ",") + std::to_string(device);
    }
    std::vector<std::string> arguments = {"--devices=" + devices,
                                          "--carrier",
                                          options_.carrier,
                                          "--lightning",
                                          std::to_string(options_.lightning),
                                          "--softmax",
                                          std::to_string(options_.softmax),
                                          "--vocab",
                                          std::to_string(options_.vocab),
                                          "--replicas",
                                          std::to_string(options_.replicas),
                                          "--kernels",
                                          options_.family,
                                          "--window-bytes",
                                          std::to_string(options_.window_bytes),
                                          "--nccl-blocks",
                                          std::to_string(options_.nccl_blocks),
                                          "--worker",
                                          std::to_string(at - 1)};
    if (options_.tiny) arguments.emplace_back("--tiny");
    return arguments;
  }

  std::uint32_t workers() const {
    return together_ ? 1 : static_cast<std::uint32_t>(processes_.size());
  }
  std::uint32_t tokens_each() const { return options_.warm_up + options_.steps + kTail; }

  Status start_shard() {
    const std::uint32_t most = std::ranges::max(options_.batches);
    const std::uint32_t length = options_.prompt + tokens_each();
    attention::ShardOptions own;
    own.registration.kind = wire::ServiceKind::attention;
    own.registration.name = "attention-0";
    own.registration.numerics = end_.backend->numerics();
    own.expert_carrier = together_ ? transport::Carrier::inproc : transport::Carrier::automatic;
    own.scheduler.slots = most;
    own.scheduler.pages = most * (length / kernels::kPageTokens + 2);
    own.scheduler.batch_tokens = std::max<std::uint32_t>(512, most);
    own.scheduler.lanes = options_.micro_batches;
    own.scheduler.lane_rows_min = 1;
    own.scheduler.waiting_max = most;
    own.cache.bytes_max = 0;
    own.pool = end_.pool;
    own.on_left = [] {};
    own.on_fatal = [this](const std::string& why) { failure_ = {Code::internal, why}; };
    attention::ShardModel model;
    model.config = config_;
    model.weights = slice_weights(config_, *end_.backend);
    FULGUR_ASSIGN_OR_RETURN(
        shard_, attention::start_shard(*reactor_, std::move(model), *end_.backend, std::move(own)));
    return Status::ok();
  }

  Status start_own_worker() {
    const expert::WorkerModel model{
        config_.layers, config_.experts, config_.hidden,
        [this](expert::ReplicaId id) -> Result<std::shared_ptr<const kernels::Expert>> {
          return std::shared_ptr<const kernels::Expert>(
              slice_expert(config_, id.layer, id.expert, *end_.backend));
        }};
    expert::WorkerOptions own;
    own.registration.name = "expert-0";
    own.hold = mesh_replicas(options_, config_, 0);
    own.pool = end_.pool;
    own.on_left = [] {};
    own.on_fatal = [this](const std::string& why) { failure_ = {Code::internal, why}; };
    FULGUR_ASSIGN_OR_RETURN(worker_,
                            expert::start_worker(*reactor_, model, *end_.backend, std::move(own)));
    return Status::ok();
  }

  wire::Placement placement() const {
    wire::Placement placement;
    placement.epoch = 1;
    placement.orchestrator_generation = 1;
    placement.layers = config_.layers;
    placement.experts = config_.experts;
    for (std::uint32_t at = 0; at < workers(); ++at) {
      wire::WorkerEntry entry;
      entry.name = fmt::format("expert-{}", at);
      entry.incarnation = 1;
      entry.endpoint =
          together_ ? transport::LoopbackTransport::kEndpoint : processes_[at]->endpoint();
      entry.replicas.resize(expert::ReplicaSet::words(config_.layers, config_.experts));
      for (const auto id : mesh_replicas(options_, config_, at)) {
        const std::size_t bit = std::size_t{id.layer} * config_.experts + id.expert;
        entry.replicas[bit / 64] |= std::uint64_t{1} << (bit % 64);
      }
      placement.workers.push_back(std::move(entry));
    }
    return placement;
  }

  // ------------------------------------------------------------------ the client

  void submit(std::uint32_t request) {
    wire::Submit submit;
    submit.request = request + 1;
    for (std::uint32_t i = 0; i < options_.prompt; ++i) {
      submit.tokens.push_back((request * 7919 + i * 31 + i * i * 7 + 13) % config_.vocab);
    }
    submit.prompt_tokens = options_.prompt;
    submit.max_new_tokens = tokens_each();
    submit.sampling.temperature = 0;
    actor::tell(shard_->engine_actor, actor::Received<wire::Submit>{
                                          ClientTap::kClient, "client", 0, {}, std::move(submit)});
  }

  /// What the shard has to say to its client.
  void take(wire::Frames frames) {
    auto message = wire::decode(std::move(frames));
    if (!message.is_ok()) {
      failure_ = message.status();
    } else if (const auto* tokens = std::get_if<wire::Tokens>(&message->body)) {
      for (const auto& event : tokens->events) take(event);
      note_gap();
    } else if (const auto* done = std::get_if<wire::Done>(&message->body)) {
      ++done_;
      if (done->code != Code::ok) failure_ = {done->code, done->message};
    }
  }

  void take(const wire::TokenEvent& event) {
    auto& tokens = tokens_.at(event.request - 1);
    tokens.push_back(event.token);
    ++total_;
    if (tokens.size() == options_.warm_up && ++warm_ == tokens_.size()) begin_ = sample();
    if (tokens.size() == options_.warm_up + options_.steps && ++measured_ == tokens_.size()) {
      end_sample_ = sample();
    }
    const bool middle = tokens.size() == options_.warm_up + options_.steps / 2;
    if (middle && event.request == 1 && options_.kill && !killed_) kill_due_ = true;
  }

  /// The longest time without a token while all sequences decode.
  void note_gap() {
    const Nanoseconds now = clock_.now();
    const bool measuring = begin_.at != 0 && end_sample_.at == 0;
    if (measuring && last_token_ != 0) longest_gap_ = std::max(longest_gap_, now - last_token_);
    last_token_ = now;
  }

  Sample sample() const {
    Sample now;
    now.at = clock_.now();
    now.tokens = total_;
    now.busy = shard_->busy;
    now.bubble = shard_->bubble;
    now.dispatching = shard_->dispatching;
    now.dispatch = shard_->dispatch_stats;
    now.rows = shard_->engine->stats().rows_total;
    now.micro_batches = shard_->engine->stats().micro_batches_total;
    now.bytes_sent = tap_->stats().bytes_sent;
    if (worker_) {
      const expert::DeviceTime& time = *worker_->context.device_time;
      now.worker_busy_ns = {static_cast<std::uint64_t>(time.total())};
      now.worker_runs = time.runs();
    }
    for (const auto& process : processes_) {
      now.worker_busy_ns.push_back(process->book().busy_ns.load(std::memory_order_relaxed));
      now.worker_runs += process->book().runs.load(std::memory_order_relaxed);
    }
    return now;
  }

  // ------------------------------------------------------------------ turning

  template <class Done>
  Status pump(const Done& done, const char* otherwise) {
    while (!done()) {
      FULGUR_RETURN_IF_ERROR(failure_);
      const bool busy = reactor_->run_once();
      if (kill_due_) kill_in_mid_dispatch();
      if (busy) continue;
      if (clock_.now() > deadline_) return {Code::deadline_exceeded, otherwise};
      for (const auto& process : processes_) {
        if (process->ended()) return {Code::unavailable, "a worker ended: see its message"};
      }
      rest_until_due(*reactor_);
    }
    return failure_;
  }

  /// The first worker found that owes an answer.
  void kill_in_mid_dispatch() {
    for (const auto& [link, state] : tap_->peers()) {
      if (state.sent <= state.received) continue;
      for (std::size_t at = 0; at < processes_.size(); ++at) {
        if (state.peer.name == fmt::format("expert-{}", at)) processes_[at]->kill();
      }
      killed_ = true;
      kill_due_ = false;
      return;
    }
  }

  // ------------------------------------------------------------------ what came out

  std::string checksum(std::size_t sequences) const {
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (std::size_t at = 0; at < std::min(sequences, tokens_.size()); ++at) {
      for (const std::uint32_t token : tokens_[at]) hash = (hash ^ token) * 0x100000001b3U;
    }
    return fmt::format("{:016x}", hash);
  }

  std::size_t gpus() const {
    return std::set<int>(options_.devices.begin(), options_.devices.end()).size();
  }

  nlohmann::json row(std::uint32_t sequences) const {
    const Sample& a = begin_;
    const Sample& b = end_sample_;
    const Nanoseconds window = b.at - a.at;
    const double steps = static_cast<double>(b.tokens - a.tokens) / sequences;
    const double tokens_per_s = static_cast<double>(b.tokens - a.tokens) * 1e3 / ms(window);
    std::set<std::string> used;
    for (const auto& [link, state] : tap_->peers()) {
      if (!together_) used.insert(std::string(to_string(state.peer.device)));
    }
    return {{"kind", options_.kill ? "mesh_kill" : "mesh"},
            {"numerics", end_.backend->numerics()},
            {"devices", options_.devices},
            {"carrier", together_ ? "one process" : options_.carrier},
            {"carriers_used", used},
            {"micro_batches", options_.micro_batches},
            {"batch", sequences},
            {"layers", config_.layers},
            {"vocab", config_.vocab},
            {"prompt", options_.prompt},
            {"steps", steps},
            {"ms_per_step", ms(window) / steps},
            {"tokens_per_s", tokens_per_s},
            {"tokens_per_s_per_gpu", tokens_per_s / static_cast<double>(gpus())},
            {"step_ms", parts(steps)},
            {"layer_ms", layer_parts(steps * config_.layers)},
            {"bubble_share", bubbles(window)},
            {"rows_per_micro_batch",
             static_cast<double>(b.rows - a.rows) / static_cast<double>(std::max<std::uint64_t>(
                                                        b.micro_batches - a.micro_batches, 1))},
            {"bytes_sent_per_step", static_cast<double>(b.bytes_sent - a.bytes_sent) / steps},
            {"longest_gap_ms", ms(longest_gap_)},
            {"workers_lost", b.dispatch.workers_lost_total},
            {"retries", b.dispatch.retries_total},
            {"checksum", checksum(tokens_.size())},
            {"checksum_first", checksum(kFirst)}};
  }

  /// Of the shard's thread, for one step of all sequences.
  nlohmann::json parts(double steps) const {
    const auto each = [&](Nanoseconds from, Nanoseconds to) { return ms(to - from) / steps; };
    const Nanoseconds a_wait = begin_.bubble.lightning + begin_.bubble.softmax;
    const Nanoseconds b_wait = end_sample_.bubble.lightning + end_sample_.bubble.softmax;
    return {{"lightning", each(begin_.busy.lightning, end_sample_.busy.lightning)},
            {"softmax", each(begin_.busy.softmax, end_sample_.busy.softmax)},
            {"combine_queue", each(begin_.busy.combine, end_sample_.busy.combine)},
            {"head", each(begin_.busy.head, end_sample_.busy.head)},
            {"dispatch", each(begin_.dispatching, end_sample_.dispatching)},
            {"wait", each(a_wait, b_wait)}};
  }

  /// For one layer of one step. expert: of the worker's device, the mean of the workers; a dispatch
  /// is on its way for round_trip, of which it waits at the worker for queue.
  nlohmann::json layer_parts(double layers) const {
    const attention::DispatchStats& a = begin_.dispatch;
    const attention::DispatchStats& b = end_sample_.dispatch;
    const auto dispatches =
        static_cast<double>(std::max<std::uint64_t>(b.dispatches_total - a.dispatches_total, 1));
    const double expert = ms(worker_busy()) / workers();
    const Nanoseconds attention = end_sample_.busy.lightning + end_sample_.busy.softmax -
                                  begin_.busy.lightning - begin_.busy.softmax;
    const Nanoseconds wait = end_sample_.bubble.lightning + end_sample_.bubble.softmax -
                             begin_.bubble.lightning - begin_.bubble.softmax;
    const auto runs = static_cast<double>(
        std::max<std::uint64_t>(end_sample_.worker_runs - begin_.worker_runs, 1));
    return {
        {"attention", ms(attention) / layers},
        {"dispatch", ms(end_sample_.dispatching - begin_.dispatching) / layers},
        {"expert", expert / layers},
        {"combine_wait", ms(wait) / layers},
        {"round_trip_each",
         static_cast<double>(b.round_trip_us_total - a.round_trip_us_total) / 1e3 / dispatches},
        {"queue_each", static_cast<double>(b.queue_us_total - a.queue_us_total) / 1e3 / dispatches},
        {"run_each", ms(worker_busy()) / runs}};
  }

  Nanoseconds worker_busy() const {
    const auto total = [](const Sample& sample) {
      return std::accumulate(sample.worker_busy_ns.begin(), sample.worker_busy_ns.end(),
                             std::uint64_t{0});
    };
    return static_cast<Nanoseconds>(total(end_sample_) - total(begin_));
  }

  nlohmann::json bubbles(Nanoseconds window) const {
    const Nanoseconds wait = end_sample_.bubble.lightning + end_sample_.bubble.softmax -
                             begin_.bubble.lightning - begin_.bubble.softmax;
    return {{"shard", ms(wait) / ms(window)},
            {"worker", 1 - ms(worker_busy()) / workers() / ms(window)}};
  }

  const GpuMeshOptions options_;
  const model::ModelConfig config_;
  const bool together_;
  const RealClock clock_;
  std::vector<std::unique_ptr<WorkerProcess>> processes_;
  MeshEnd end_;
  std::unique_ptr<ClientTap> tap_;
  std::unique_ptr<attention::Shard> shard_;
  std::unique_ptr<expert::Worker> worker_;
  std::unique_ptr<actor::Reactor> reactor_;
  Status failure_;
  Nanoseconds deadline_ = 0;

  // Of the batch in hand.
  std::vector<std::vector<std::uint32_t>> tokens_;  ///< of each sequence
  std::uint64_t total_ = 0;
  std::size_t done_ = 0;
  std::size_t warm_ = 0;      ///< sequences that have warm_up tokens
  std::size_t measured_ = 0;  ///< … and steps more
  Sample begin_, end_sample_;
  Nanoseconds last_token_ = 0;
  Nanoseconds longest_gap_ = 0;
  bool kill_due_ = false;
  bool killed_ = false;
};

}  // namespace

Status run_gpu_mesh(const GpuMeshOptions& options,
                    const std::function<void(const nlohmann::json&)>& say) {
  MeshRun run(options);
  FULGUR_RETURN_IF_ERROR(run.start());
  for (const std::uint32_t batch : options.batches) {
    FULGUR_ASSIGN_OR_RETURN(const nlohmann::json row, run.batch(batch));
    say(row);
  }
  return Status::ok();
}

}  // namespace fulgur::bench
