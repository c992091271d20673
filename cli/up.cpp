// fulgur up: claims the run directory, starts and supervises the services until told to stop.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <initializer_list>
#include <iterator>

#include "cli/commands.hpp"
#include "cli/greeting.hpp"
#include "cli/scale_control.hpp"
#include "cli/scale_room.hpp"
#include "cli/supervision.hpp"
#include "common/base/log.hpp"
#include "common/model/checkpoint.hpp"
#include "common/transport/curve_keys.hpp"

namespace fulgur::cli {
namespace {

constexpr Nanoseconds kShutdownDeadline = 20 * kSecond;
constexpr Nanoseconds kPollPeriod = 100 * kMillisecond;

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus.empty() ? std::vector<int>{0} : cpus;
}

std::string describe_model(const std::string& directory, const model::ModelConfig& config) {
  return fmt::format(
      "{}: {:.1f} M parameters, {} layers ({} lightning, {} softmax), {} experts top-{}", directory,
      static_cast<double>(config.total_params()) / 1e6, config.layers,
      config.layers_of(model::AttentionKind::lightning),
      config.layers_of(model::AttentionKind::softmax), config.experts, config.experts_per_token);
}

/// Tells the process that waits for a detached mesh how it went, then lets go of the terminal.
class DetachSignal {
 public:
  explicit DetachSignal(int pipe) : pipe_(pipe) {}
  void ready(const std::string& log) {
    if (pipe_ < 0) return;
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(null, STDIN_FILENO);
    dup2(file, STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    if (write(pipe_, "r", 1) != 1) log::debug("nobody waits for the mesh any more");
    close(pipe_);
    pipe_ = -1;
  }

 private:
  int pipe_;
};

/// Waits at most `patience` for a signal that ends the mesh; true when one came.
bool stop_requested(const sigset_t& signals, Nanoseconds patience) {
  const timespec period{0, patience};
  const int signal = sigtimedwait(&signals, nullptr, &period);
  return signal == SIGTERM || signal == SIGINT || signal == SIGHUP;
}

/// What the mesh's processes take of this machine.
PoolCosts pool_costs(const UpOptions& options, const model::ModelConfig& config) {
  constexpr std::uint64_t kSequences = 64;  // of a shard, its default
  const std::uint64_t weight = options.activations == "f32" ? sizeof(float) : sizeof(float) / 2;
  PoolCosts costs;
  costs.experts_bytes = config.expert_params() * config.experts * config.layers * weight;
  costs.replicas = options.replicas;
  costs.shard_bytes = (config.attention_params() + config.router_params() + config.norm_params() +
                       config.embedding_params() + config.head_params()) *
                          weight +
                      kSequences * config.state_bytes_per_sequence() +
                      kKvTokens * config.kv_bytes_per_token() * weight / 2;
  return costs;
}

/// Starts what a pool lacks of numbers 0 to count - 1; nothing when all of it cannot be.
Result<std::vector<std::string>> scale(Supervision& mesh, const UpOptions& options,
                                       const MeshPaths& paths, const PoolCosts& costs,
                                       const ScaleRequest& request) {
  const bool experts = request.kind == "expert";
  std::vector<ServicePlan> fresh;
  for (std::uint32_t i = 0; i < request.count; ++i) {
    auto plan = plan_service(options, paths, usable_cpus(), request.kind, i);
    if (!mesh.runs(plan.name)) fresh.push_back(std::move(plan));
  }
  const auto added = static_cast<std::uint32_t>(fresh.size());
  const PoolSize size{request.kind, request.count - std::min(added, request.count), request.count,
                      experts ? options.max_experts : options.max_attention};
  FULGUR_RETURN_IF_ERROR(check_room(size, costs, available_memory()));
  std::vector<std::string> names;
  for (auto& plan : fresh) {
    names.push_back(plan.name);
    FULGUR_RETURN_IF_ERROR(mesh.add(std::move(plan)));
  }
  return names;
}

/// Blocks, for this process and those it forks, the signals that end a mesh and the given ones; returns
/// them all. What the caller ignores (nohup, a script's background jobs) stays ignored.
sigset_t block_signals(std::initializer_list<int> more) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction before {};
    const bool known = sigaction(signal, nullptr, &before) == 0;
    if (!known || before.sa_handler != SIG_IGN) sigaddset(&signals, signal);
  }
  for (const int signal : more) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

Status serve(const UpOptions& options, const std::string& model, const model::ModelConfig& config,
             const RunDir& dir, DetachSignal detach) {
  const sigset_t signals = block_signals({SIGCHLD});
  signal(SIGPIPE, SIG_IGN);

  const RealClock clock;
  MeshPaths paths{model, "ipc://" + dir.path() + "/", {}};
  if (options.curve) {
    paths.curve_key = dir.path() + "/curve.key";
    FULGUR_RETURN_IF_ERROR(
        transport::write_curve_key(paths.curve_key, transport::new_curve_key()));
  }
  const PoolCosts costs = pool_costs(options, config);
  FULGUR_ASSIGN_OR_RETURN(auto control, ScaleControl::start());
  MeshRecord record{options.port, options.host, model, getpid(), {}, control->endpoint(), {}};
  Supervision mesh(program_directory(), dir, record, plan_mesh(options, paths, usable_cpus()),
                   clock);
  Greeting greeting(options, model, dir);
  Status status = mesh.start_all();
  if (status.is_ok()) greeting.start();
  while (status.is_ok() && !stop_requested(signals, kPollPeriod)) {
    status = mesh.poll();
    const bool ready = greeting.ready();
    if (ready) mesh.mesh_is_ready();
    control->serve([&](const ScaleRequest& request) -> Result<std::vector<std::string>> {
      if (!ready) return Status(Code::unavailable, "the mesh is just starting");
      return scale(mesh, options, paths, costs, request);
    });
    if (greeting.done()) detach.ready(dir.log_path("fulgur"));
  }
  greeting.stop();
  mesh.shut_down(kShutdownDeadline, [&signals] { return stop_requested(signals, 0); });
  if (status.is_ok()) dir.remove();  // after a failure its logs are worth reading
  return status;
}

/// Says early, and before anything is printed, that the port is taken. The claim decides for good.
Status check_place(const UpOptions& options) {
  if (RunDir::of(options.port).in_use()) return RunDir::claim(options.port).status();
  return check_port(options.host, options.port);
}

int start_mesh(const UpOptions& options, const std::string& model,
               const model::ModelConfig& config, int detach_pipe) {
  auto dir = RunDir::claim(options.port);
  if (!dir.is_ok()) return fail(dir.status());
  const Status ended = serve(options, model, config, *dir, DetachSignal(detach_pipe));
  return ended.is_ok() ? 0 : fail(ended);
}

/// Waits until the mesh in process `child` serves or has failed. It has a session of its own: what is
/// to end this command (Ctrl-C) would not reach it.
int wait_for_start(pid_t child, int detach_pipe, const sigset_t& signals) {
  const int arrivals = signalfd(-1, &signals, SFD_CLOEXEC);
  pollfd watched[] = {{detach_pipe, POLLIN, 0}, {arrivals, POLLIN, 0}};
  bool interrupted = false;
  while (watched[0].revents == 0) {
    if (poll(watched, std::size(watched), -1) < 0 && errno != EINTR) break;
    signalfd_siginfo arrival{};
    if (watched[1].revents == 0 || read(arrivals, &arrival, sizeof(arrival)) <= 0) continue;
    interrupted = true;
    kill(child, SIGTERM);
    watched[0] = {detach_pipe, 0, 0};  // that it serves means nothing any more: until it has ended
  }
  char answer = 0;
  const bool ready = !interrupted && read(detach_pipe, &answer, 1) == 1;
  if (!ready) waitpid(child, nullptr, 0);
  if (interrupted) std::fprintf(stderr, "fulgur: interrupted, the mesh has ended\n");
  return ready ? 0 : 1;
}

int start_detached(const UpOptions& options, const std::string& model,
                   const model::ModelConfig& config) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(Status(Code::unavailable, "cannot make a pipe"));
  // Before the fork: no moment in which a signal would end only one of the two.
  const sigset_t signals = block_signals({});
  const pid_t child = fork();
  if (child < 0) return fail(Status(Code::unavailable, "cannot fork"));
  if (child == 0) {
    close(ends[0]);
    setsid();
    _exit(start_mesh(options, model, config, ends[1]));
  }
  close(ends[1]);
  return wait_for_start(child, ends[0], signals);
}

}  // namespace

int run(const UpOptions& options) {
  log::init("fulgur", options.quiet ? log::Level::error : log::Level::warn);
  auto model = model_directory(options.model);
  if (!model.is_ok()) return fail(model.status());
  if (Status free = check_place(options); !free.is_ok()) return fail(free);
  auto checkpoint = model::Checkpoint::open(*model);
  if (!checkpoint.is_ok()) return fail(checkpoint.status());
  if (!options.quiet) {
    std::printf("%s\n", describe_model(*model, (*checkpoint)->config()).c_str());
    std::printf("%u attention shard(s), %u expert worker(s), activations %s\n", options.attention,
                options.experts, options.activations.c_str());
    std::fflush(stdout);
  }
  const model::ModelConfig config = (*checkpoint)->config();
  checkpoint->reset();
  return options.detach ? start_detached(options, *model, config)
                        : start_mesh(options, *model, config, -1);
}

}  // namespace fulgur::cli
