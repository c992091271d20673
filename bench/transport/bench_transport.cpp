#include "bench/transport/bench_transport.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/transport/echo.hpp"
#include "common/base/clock.hpp"

namespace fulgur::bench {
namespace {

/// A forked server; dies with this object, or with the parent.
class ServerProcess {
 public:
  ServerProcess(const Contestant& contestant, int core) {
    std::array<int, 2> ends{};
    FULGUR_ASSERT(pipe(ends.data()) == 0, "no pipe");
    const pid_t parent = getpid();
    pid_ = fork();
    FULGUR_ASSERT(pid_ >= 0, "cannot fork");
    if (pid_ == 0) {
      close(ends[0]);
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      serve(contestant, core, ends[1]);
    }
    close(ends[1]);
    std::array<char, 512> text{};
    const ssize_t got = read(ends[0], text.data(), text.size() - 1);
    close(ends[0]);
    if (got > 0) address_ = text.data();
  }
  ~ServerProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  const std::string& address() const { return address_; }

 private:
  [[noreturn]] static void serve(const Contestant& contestant, int core, int ready_fd) {
    pin_to(core);
    try {
      contestant.serve([ready_fd](const std::string& address) {
        [[maybe_unused]] const auto wrote = write(ready_fd, address.data(), address.size());
        close(ready_fd);
      });
    } catch (const std::exception& failure) {
      fmt::print(stderr, "bench transport: {}: {}\n", contestant.name, failure.what());
    }
    _exit(1);
  }

  pid_t pid_ = -1;
  std::string address_;
};

struct Lane {
  Contestant contestant;
  std::unique_ptr<ServerProcess> server;
  std::unique_ptr<EchoClient> client;
};

/// Figures of one contestant and size, one of each a round.
struct Samples {
  std::vector<double> p50_us;
  std::vector<double> p99_us;
  std::vector<double> gb_per_s;
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<Contestant> contestants(const BenchTransportOptions& options) {
  const std::string unique = std::to_string(getpid());
  std::vector<Contestant> all;
  all.push_back(inproc_contestant(options.server_core));
  all.push_back(shm_contestant());
  all.push_back(mesh_zmq_contestant("zmq-ipc", "ipc:///tmp/fulgur-bench-ipc-" + unique, true));
  all.push_back(
      mesh_zmq_contestant("zmq-ipc-frames", "ipc:///tmp/fulgur-bench-frames-" + unique, false));
  all.push_back(bare_zmq_contestant("bare-zmq-ipc", "ipc:///tmp/fulgur-bench-bare-" + unique));
  all.push_back(mesh_zmq_contestant("zmq-tcp", "tcp://127.0.0.1:*", true));
  all.push_back(mesh_zmq_contestant("zmq-tcp-frames", "tcp://127.0.0.1:*", false));
  all.push_back(bare_zmq_contestant("bare-zmq-tcp", "tcp://127.0.0.1:*"));
  all.push_back(unix_socket_contestant("/tmp/fulgur-bench-unix-" + unique));
  all.push_back(grpc_contestant("grpc-unix", "unix:/tmp/fulgur-bench-grpc-" + unique));
  all.push_back(grpc_contestant("grpc-tcp", "127.0.0.1:0"));
  if (options.only.empty()) return all;
  std::erase_if(all, [&](const Contestant& contestant) {
    return std::ranges::find(options.only, contestant.name) == options.only.end();
  });
  return all;
}

void measure(EchoClient& client, std::size_t bytes, const BenchTransportOptions& options,
             Samples& samples) {
  const RealClock clock;
  std::vector<double> trips_us(options.round_trips);
  for (std::size_t i = 0; i < 20; ++i) client.round_trip(bytes);
  for (double& trip : trips_us) {
    const Nanoseconds start = clock.now();
    client.round_trip(bytes);
    trip = static_cast<double>(clock.now() - start) / 1e3;
  }
  std::ranges::sort(trips_us);
  samples.p50_us.push_back(trips_us[trips_us.size() / 2]);
  samples.p99_us.push_back(trips_us[trips_us.size() * 99 / 100]);

  const std::size_t count = std::max<std::size_t>(2, options.one_way_bytes / bytes);
  const Nanoseconds start = clock.now();
  client.one_way(bytes, count);
  samples.gb_per_s.push_back(static_cast<double>(count * bytes) /
                             static_cast<double>(clock.now() - start));
}

/// What a contestant's figures are compared with.
std::string judge_of(const std::string& name) {
  if (name.starts_with("zmq-ipc")) return "bare-zmq-ipc";
  if (name.starts_with("zmq-tcp")) return "bare-zmq-tcp";
  return "af-unix";
}

std::string size_name(std::size_t bytes) {
  return bytes < (1U << 20) ? fmt::format("{} KiB", bytes >> 10)
                            : fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1U << 20));
}

}  // namespace

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(core), &set);
  sched_setaffinity(0, sizeof(set), &set);
}

Result<std::vector<BenchTransportRow>> bench_transport(const BenchTransportOptions& options) {
  if (options.rounds == 0 || options.round_trips == 0) {
    return error(Code::invalid_argument, "rounds and round trips must be at least 1");
  }
  for (const std::size_t bytes : options.sizes) {
    if (bytes == 0 || bytes % 12'288 != 0 || bytes > (16U << 20)) {
      return error(Code::invalid_argument, "size {} is not a multiple of 12288 up to 16 MiB",
                   bytes);
    }
  }
  std::vector<Lane> lanes;
  for (Contestant& contestant : contestants(options))
    lanes.push_back({std::move(contestant), {}, {}});
  for (Lane& lane : lanes) {
    if (!lane.contestant.missing.empty() || lane.contestant.two_threads) continue;
    lane.server = std::make_unique<ServerProcess>(lane.contestant, options.server_core);
    if (lane.server->address().empty()) lane.contestant.missing = "the server did not start";
  }
  pin_to(options.client_core);
  for (Lane& lane : lanes) {
    if (!lane.contestant.missing.empty()) continue;
    lane.client = lane.contestant.connect(lane.server ? lane.server->address() : "");
  }

  std::map<std::pair<std::string, std::size_t>, Samples> samples;
  for (std::size_t round = 0; round < options.rounds; ++round) {
    for (const std::size_t bytes : options.sizes) {
      for (Lane& lane : lanes) {
        if (lane.client)
          measure(*lane.client, bytes, options, samples[{lane.contestant.name, bytes}]);
      }
    }
  }
  std::vector<BenchTransportRow> rows;
  for (const std::size_t bytes : options.sizes) {
    for (const Lane& lane : lanes) {
      const Samples& got = samples[{lane.contestant.name, bytes}];
      rows.push_back({lane.contestant.name, bytes, median(got.p50_us), median(got.p99_us),
                      median(got.gb_per_s), lane.contestant.missing});
    }
  }
  return rows;
}

std::string to_table(const std::vector<BenchTransportRow>& rows) {
  const auto find = [&](const std::string& name, std::size_t bytes) {
    return std::ranges::find_if(
        rows, [&](const auto& row) { return row.name == name && row.bytes == bytes; });
  };
  std::string table = fmt::format("{:<10}{:<14}{:>10}{:>10}{:>9}  {}\n", "payload", "transport",
                                  "p50 us", "p99 us", "GB/s", "p50 ratio");
  for (const BenchTransportRow& row : rows) {
    if (!row.missing.empty()) {
      table += fmt::format("{:<10}{:<14}{}\n", size_name(row.bytes), row.name, row.missing);
      continue;
    }
    table += fmt::format("{:<10}{:<14}{:>10.1f}{:>10.1f}{:>9.2f}", size_name(row.bytes), row.name,
                         row.p50_us, row.p99_us, row.gb_per_s);
    const std::string judge = judge_of(row.name);
    const auto other = find(judge, row.bytes);
    if (other != rows.end() && judge != row.name && other->p50_us > 0) {
      table += fmt::format("  {:.2f} x {}", row.p50_us / other->p50_us, judge);
    }
    table += '\n';
  }
  return table;
}

std::string to_json(const std::vector<BenchTransportRow>& rows) {
  auto list = nlohmann::json::array();
  for (const BenchTransportRow& row : rows) {
    nlohmann::json entry = {{"transport", row.name}, {"bytes", row.bytes}};
    if (row.missing.empty()) {
      entry["round_trip_us_p50"] = row.p50_us;
      entry["round_trip_us_p99"] = row.p99_us;
      entry["one_way_gb_per_s"] = row.gb_per_s;
    } else {
      entry["missing"] = row.missing;
    }
    list.push_back(std::move(entry));
  }
  return nlohmann::json{{"results", list}}.dump(2);
}

}  // namespace fulgur::bench
